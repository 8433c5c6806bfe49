"""Reading a method file without importing it: its first line, source, needs, parameters, defaults and search ranges.

So listing methods imports neither torch nor a method, and the signature is the only home of a default.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from allround.core.entry import Entry, Parameter
from allround.core.errors import AllroundError, suggestion
from allround.core.families import room

#: Types of arguments that the machinery gives, so that nobody sets them: statistics, what a block belongs to, and
#: what takes numbers to tell.
_GIVEN = re.compile(r"\b(Tensor|Whole|Report)\b")


@dataclass(frozen=True)
class MethodFile:
    """What stands in a method file, before it is known to fit a family."""

    path: Path
    #: What the reading is for: the first part of an error.
    asked: str
    definition: ast.FunctionDef | ast.ClassDef
    #: The keywords of `@method(...)`.
    declared: dict[str, object]
    parameters: tuple[Parameter, ...]
    summary: str


def parse(path: Path, text: str, asked: str) -> MethodFile:
    """Read the text of a method file.

    Errors: not valid Python; no function or class that is named as the file and marked; a declaration or a default that
    is not a literal.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:  # a null byte is a ValueError
        raise AllroundError(asked, f"it is not valid Python: {error}", "correct the file, or remove it") from error
    camel = "".join(part.capitalize() for part in path.stem.split("_"))
    definition = next(
        (
            node
            for node in tree.body
            if (isinstance(node, ast.FunctionDef) and node.name == path.stem)
            or (isinstance(node, ast.ClassDef) and node.name == camel)
        ),
        None,
    )
    decorator = _decorator(definition) if definition else None
    if definition is None or decorator is None:
        raise AllroundError(
            asked,
            f"it has no function '{path.stem}' or class '{camel}' marked with @method(source=...)",
            "name the function as the file and mark it, or start the file name with '_' if it is not a method",
        )
    try:
        declared = {k.arg: ast.literal_eval(k.value) for k in decorator.keywords if k.arg}
        parameters = tuple(_parameters(definition))
    except ValueError as error:
        raise AllroundError(
            asked,
            f"an argument of @method or a default is not a literal: {error}",
            "give literals (numbers, texts, tuples): they are read without importing the file",
        ) from error
    if decorator.args or any(k.arg is None for k in decorator.keywords):
        raise AllroundError(asked, "@method has arguments without a keyword", "write @method(source=..., ...)")
    summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return MethodFile(path, asked, definition, declared, parameters, summary)


def entry_of(file: MethodFile, family: str, module: str, statistics: tuple[str, ...]) -> Entry:
    """The entry of a method file as one of a family.

    module: what the file is imported as. statistics: the names that a merge method may need.
    Errors: a declaration that is not one of the family.
    """
    from pydantic import ValidationError

    from allround.core.declarations import DECLARATIONS

    try:
        declared = DECLARATIONS[family].model_validate(file.declared, context={"statistics": statistics})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise AllroundError(
            file.asked,
            f"@method(...) has no {key}" if first["type"] == "missing" else f"@method({key}=...): {first['msg']}",
            suggestion(key, DECLARATIONS[family].model_fields)
            if first["type"] == "extra_forbidden"
            else "see allround.core.declarations for what a method of this family declares",
        ) from error
    if declared.family not in (None, family):
        raise AllroundError(
            file.asked,
            f"it says family {declared.family!r}, and lies in the folder of the family '{family}'",
            "correct the family, or leave it out",
        )
    facts = declared.model_dump(exclude={"source", "paper", "needs", "family"})
    if isinstance(file.definition, ast.FunctionDef):
        given = {_annotation(a.annotation)[0] for a in file.definition.args.kwonlyargs}
        facts |= {"whole": "Whole" in given, "report": "Report" in given}
    return Entry(
        name=file.path.stem,
        family=family,
        room=room(family),
        path=file.path,
        module=module,
        attribute=file.definition.name,
        summary=file.summary,
        source=declared.source,
        papers=_titles(declared.paper),
        needs=declared.needs,
        parameters=file.parameters,
        facts=facts,
    )


def _titles(paper: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The titles of a method's papers, however many it names."""
    return (paper,) if isinstance(paper, str) else paper or ()


def _decorator(definition: ast.FunctionDef | ast.ClassDef) -> ast.Call | None:
    for decorator in definition.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "method":
            return decorator
    return None


def _parameters(definition: ast.FunctionDef | ast.ClassDef) -> list[Parameter]:
    if isinstance(definition, ast.ClassDef):
        inits = [n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not inits:
            return []
        definition = inits[0]
    found = []
    for argument, default in zip(definition.args.kwonlyargs, definition.args.kw_defaults, strict=True):
        type_, search = _annotation(argument.annotation)
        if _GIVEN.search(type_):
            continue
        value = ast.literal_eval(default) if default is not None else None
        found.append(Parameter(argument.arg, type_, value, default is None, search))
    return found


def _annotation(node: ast.expr | None) -> tuple[str, tuple[object, ...]]:
    if node is None:
        return "", ()
    if isinstance(node, ast.Subscript) and getattr(node.value, "id", None) == "Annotated":
        assert isinstance(node.slice, ast.Tuple)
        type_, *extras = node.slice.elts
        search: tuple[object, ...] = ()
        for extra in extras:
            if isinstance(extra, ast.Call) and getattr(extra.func, "id", None) == "Search":
                search = tuple(ast.literal_eval(a) for a in extra.args)
        return ast.unparse(type_), search
    return ast.unparse(node), ()
