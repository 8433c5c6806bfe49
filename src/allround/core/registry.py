"""Methods, found by file name without importing them.

A family is a folder of the package. A public file in it is a method of the same name: a function
called as the file, or a class called so in CamelCase. What a method is
(its first line, source, needs, parameters, defaults, search ranges) is read from the file's own text, so
listing methods imports neither torch nor the method, and the signature is the only home of a default.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from allround.core.errors import AllroundError, suggestion
from allround.core.reading import read_text

PACKAGE = Path(__file__).resolve().parents[1]

#: family -> folder of the package; the first part of it is the room
FAMILIES: dict[str, str] = {
    "merge": "merging/methods",
    "statistic": "merging/statistics/kinds",
    "learn": "merging/learn/presets",
    "parametrisation": "merging/learn/parametrisations",
    "objective": "merging/learn/objectives",
    "codec": "composition/residuals/codecs",
    "balance": "training/balance",
    "sample": "training/sample",
    "kind": "tasks/kinds",
    "modality": "tasks/modalities",
    "metric": "tasks/metrics",
    "encoder": "models/encoders",
    "suite": "tasks/suites",
    "loop": "building/loops/methods",
}

#: Types of arguments that the machinery gives, so that nobody sets them: statistics, what a block belongs to, and
#: what takes numbers to tell.
_GIVEN = re.compile(r"\b(Tensor|Whole|Report)\b")

#: What a method of a family is called in messages, where the family's name alone is not a noun for it.
_WORDS = {"merge": "merge method", "learn": "learned merge", "balance": "balancer", "sample": "sampling method"}

T = TypeVar("T", bound=Callable[..., Any])


def method(*, source: str, paper: str | None = None, needs: tuple[str, ...] = (), **facts: Any) -> Callable[[T], T]:
    """Mark the function or class of a method file; the arguments must be literals.

    source: where the formula comes from. paper: its title, when it is one of the papers that allround is
    made from. needs: what the method takes beside its usual input. facts: whatever else a method of the family may
    declare, such as `better="lower"` of a metric. What there is for each family, and of which type, stands in
    `allround.core.declarations`; the registry checks it when it reads the file.
    """

    def mark(what: T) -> T:
        what._method = {"source": source, "paper": paper, "needs": needs, **facts}  # type: ignore[attr-defined]
        return what

    return mark


class Search:
    """The values that a search on validation tries: `scale: Annotated[float, Search(0.3, 1.0)] = 0.3`."""

    def __init__(self, *values: Any) -> None:
        self.values = values


@dataclass(frozen=True)
class Parameter:
    """One keyword of a method."""

    name: str
    type: str
    default: Any
    required: bool
    search: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What is known of a method before it is imported."""

    name: str
    family: str
    room: str
    module: str
    attribute: str
    summary: str
    source: str
    paper: str | None
    needs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    #: What the method declares beside source, paper and needs, defaults included.
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.parameters if not p.required}

    def needed(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """What the method takes beside weights with these parameters: all that it `needs`, or the one of them that
        the parameter called `needs_by` names."""
        by = self.facts["needs_by"]
        return self.needs if by is None else tuple(need for need in self.needs if need == values[by])

    def load(self) -> Callable[..., Any]:
        """Import the file and return its function or class."""
        loaded: Callable[..., Any] = getattr(importlib.import_module(self.module), self.attribute)
        return loaded

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults overlaid with `given`, checked by name and type."""
        known = {p.name: p for p in self.parameters}
        for name, value in given.items():
            if name not in known:
                raise AllroundError(
                    f"set '{name}' of {self.family} method '{self.name}'",
                    f"'{self.name}' has no parameter '{name}'",
                    suggestion(name, known) if known else "leave it out: this method takes none",
                )
            _check_type(self, known[name], value)
        missing = [p.name for p in self.parameters if p.required and p.name not in given]
        if missing:
            raise AllroundError(
                f"use {self.family} method '{self.name}'",
                f"no value for {', '.join(missing)}",
                f"give {', '.join(missing)}",
            )
        return {**self.defaults, **given}


#: No parameter is larger; infinity, NaN and whole numbers that no float holds are none at all.
_LARGEST = 1e300
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}


def _check_type(entry: Entry, parameter: Parameter, value: Any) -> None:
    if parameter.type == "Each":
        for one in value if isinstance(value, (list, tuple)) else [value]:
            _check_type(entry, replace(parameter, type="float"), one)
        return
    wanted = _PYTHON_TYPES.get(parameter.type)
    if wanted is None:
        return
    if isinstance(value, (int, float)) and not abs(value) <= _LARGEST:
        raise AllroundError(
            f"set '{parameter.name}' of {entry.family} method '{entry.name}' to {value}",
            "that is not a finite number",
            f"give a number, such as {parameter.default!r}",
        )
    if not isinstance(value, wanted) or (isinstance(value, bool) and parameter.type != "bool"):
        raise AllroundError(
            f"set '{parameter.name}' of {entry.family} method '{entry.name}' to {value!r}",
            f"that is a {type(value).__name__}, and the parameter is a {parameter.type}",
            f"give a {parameter.type}, such as {parameter.default!r}",
        )


def spelled(family: str, text: str) -> tuple[str, dict[str, Any]]:
    """A method and its parameters, from `NAME` or `NAME:key=value;key=value`. Values are written as in YAML.

    >>> spelled("merge", "ties:keep=3e-1;scale=1")
    ('ties', {'keep': 0.3, 'scale': 1})
    """
    from allround.core.documents import parse_value

    name, _, rest = text.strip().partition(":")
    entry = find(family, name.strip())
    values: dict[str, Any] = {}
    for part in rest.split(";") if rest.strip() else []:
        key, equals, value = part.partition("=")
        try:
            if not equals or not key.strip():
                raise ValueError("no '='")
            values[key.strip()] = parse_value(value)
        except (ValueError, AllroundError) as error:
            raise AllroundError(
                f"read {_WORDS.get(family, family)} {text!r}",
                f"{part!r} is not of the form key=value",
                f"write it as {entry.name}:key=value;key=value",
            ) from error
    entry.resolve(values)
    return entry.name, values


def names(family: str) -> list[str]:
    """The names of a family's methods, from the file names alone.

    >>> "ties" in names("merge")
    True
    """
    return list(_names(family))


def _names(family: str) -> tuple[str, ...]:
    folder = PACKAGE / FAMILIES[family]
    return _listed(folder, folder.stat().st_mtime_ns) if folder.is_dir() else ()


@cache
def _listed(folder: Path, _mtime: int) -> tuple[str, ...]:
    """The methods that a folder holds; it is read again only when a file came or went."""
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))


def find(family: str, name: str) -> Entry:
    """The entry of one method, or an error that suggests the nearest name."""
    if name not in _names(family):
        raise AllroundError(
            f"use the {_WORDS.get(family, family)} '{name}'",
            f"there is no {_WORDS.get(family, family)} of that name",
            suggestion(name, names(family)),
        )
    path = PACKAGE / FAMILIES[family] / f"{name}.py"
    return _read(family, path, path.stat().st_mtime_ns, _names("statistic") if family == "merge" else ())


def entries(family: str | None = None) -> list[Entry]:
    """Every method of a family, or of all families."""
    return [find(f, n) for f in ([family] if family else FAMILIES) for n in names(f)]


def methods(family: str | None = None) -> dict[str, list[str]]:
    """The names of all methods by family, or of one family's. Errors: no family of that name.

    >>> methods("statistic")
    {'statistic': ['activations', 'fisher', 'gram', 'kfac']}
    """
    if family is not None and family not in FAMILIES:
        raise AllroundError(f"list the methods of '{family}'", "there is no such family", suggestion(family, FAMILIES))
    return {one: names(one) for one in ([family] if family else FAMILIES)}


def load(family: str, name: str) -> Callable[..., Any]:
    """The function or class of a method."""
    return find(family, name).load()


@cache
def _read(family: str, path: Path, _mtime: int, statistics: tuple[str, ...]) -> Entry:
    """What a method file says of itself. statistics: the names that a merge method may need."""
    from pydantic import ValidationError

    from allround.core.declarations import DECLARATIONS

    asked = f"read the method file {path} of family '{family}'"
    try:
        tree = ast.parse(read_text(path, what="method file", asked=asked))
    except (SyntaxError, ValueError) as error:  # a null byte is a ValueError
        raise AllroundError(asked, f"it is not valid Python: {error}", "correct the file, or remove it") from error
    camel = "".join(part.capitalize() for part in path.stem.split("_"))
    module = "allround." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
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
    literals = "give literals (numbers, texts, tuples): they are read without importing the file"
    try:
        written = {k.arg: ast.literal_eval(k.value) for k in decorator.keywords if k.arg}
        parameters = tuple(_parameters(definition))
    except ValueError as error:
        raise AllroundError(
            asked, f"an argument of @method or a default is not a literal: {error}", literals
        ) from error
    if decorator.args or any(k.arg is None for k in decorator.keywords):
        raise AllroundError(asked, "@method has arguments without a keyword", "write @method(source=..., ...)")
    try:
        declared = DECLARATIONS[family].model_validate(written, context={"statistics": statistics})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise AllroundError(
            asked,
            f"@method(...) has no {key}" if first["type"] == "missing" else f"@method({key}=...): {first['msg']}",
            suggestion(key, DECLARATIONS[family].model_fields)
            if first["type"] == "extra_forbidden"
            else "see allround.core.declarations for what a method of this family declares",
        ) from error
    facts = declared.model_dump(exclude={"source", "paper", "needs"})
    if isinstance(definition, ast.FunctionDef):
        given = {_annotation(a.annotation)[0] for a in definition.args.kwonlyargs}
        facts |= {"whole": "Whole" in given, "report": "Report" in given}
    summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return Entry(
        name=path.stem,
        family=family,
        room=FAMILIES[family].partition("/")[0],
        module=module,
        attribute=definition.name,
        summary=summary,
        source=declared.source,
        paper=declared.paper,
        needs=declared.needs,
        parameters=parameters,
        facts=facts,
    )


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


def _annotation(node: ast.expr | None) -> tuple[str, tuple[Any, ...]]:
    if node is None:
        return "", ()
    if isinstance(node, ast.Subscript) and getattr(node.value, "id", None) == "Annotated":
        assert isinstance(node.slice, ast.Tuple)
        type_, *extras = node.slice.elts
        search: tuple[Any, ...] = ()
        for extra in extras:
            if isinstance(extra, ast.Call) and getattr(extra.func, "id", None) == "Search":
                search = tuple(ast.literal_eval(a) for a in extra.args)
        return ast.unparse(type_), search
    return ast.unparse(node), ()
