"""Methods, found by file name without importing them.

A family is a folder of the package. A public file in it is a method of the same name: a function
called as the file, or a class called so in CamelCase. What a method is
(its first line, source, needs, parameters, defaults, search ranges) is read from the file's own text. Methods from
outside the package are found beside the built-in ones: see `allround.core.plugins`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from allround.core import families, plugins
from allround.core.entry import Entry
from allround.core.errors import AllroundError, suggestion
from allround.core.families import builtin_file, builtin_names, word
from allround.core.method_file import entry_of, parse
from allround.core.reading import read_text

#: What a folder that was made with a method from outside needs to be read again.
_OWN = dict.fromkeys(("head", "system", "term"), "; a method of your own needs --plugin FILE (allround.use_plugin)")

T = TypeVar("T", bound=Callable[..., Any])


def method(
    *,
    source: str,
    family: str | None = None,
    paper: str | tuple[str, ...] | None = None,
    needs: tuple[str, ...] = (),
    **facts: object,
) -> Callable[[T], T]:
    """Mark the function or class of a method file; the arguments must be literals.

    source: where the formula comes from. family: which family the method belongs to, such as "merge"; a plug-in must
    say it, and a built-in method lies in the family's folder instead. paper: its title, when it is one of the papers
    that allround is made from; several titles where it covers several. needs: what the method takes beside its usual
    input. facts: whatever else a method of the family may declare, such as `better="lower"` of a metric.
    `allround.core.declarations` says what there is for each family, and of which type; the registry checks it when it
    reads the file.
    """

    def mark(what: T) -> T:
        what._method = {"source": source, "paper": paper, "needs": needs, **facts}  # type: ignore[attr-defined]
        return what

    return mark


class Search:
    """The values that a search on validation tries: `scale: Annotated[float, Search(0.3, 1.0)] = 0.3`."""

    def __init__(self, *values: object) -> None:
        self.values = values


def spelled(family: str, text: str) -> tuple[str, dict[str, object]]:
    """A method and its parameters, from `NAME` or `NAME:key=value;key=value`. Values are written as in YAML; those of a
    parameter of the type `str | None` are texts as they stand.

    >>> spelled("merge", "ties:keep=3e-1;scale=1")
    ('ties', {'keep': 0.3, 'scale': 1})
    """
    from allround.core.documents import parse_value

    name, _, rest = text.strip().partition(":")
    entry = find(family, name.strip())
    values: dict[str, object] = {}
    texts = {parameter.name for parameter in entry.parameters if parameter.type == "str | None"}
    for part in rest.split(";") if rest.strip() else []:
        key, equals, value = part.partition("=")
        try:
            if not equals or not key.strip():
                raise ValueError("no '='")
            values[key.strip()] = value.strip() if key.strip() in texts else parse_value(value)
        except (ValueError, AllroundError) as error:
            raise AllroundError(
                f"read {word(family)} {text!r}",
                f"{part!r} is not of the form key=value",
                f"write it as {entry.name}:key=value;key=value",
            ) from error
    entry.resolve(values)
    return entry.name, values


def names(family: str) -> list[str]:
    """The names of a family's methods, built-in ones and plug-ins, sorted; from file names alone.

    >>> "ties" in names("merge")
    True
    """
    return sorted({*builtin_names(family), *plugins.of(family)})


def find(family: str, name: str) -> Entry:
    """The entry of one method, or an error that suggests the nearest name."""
    if name in builtin_names(family):
        path = builtin_file(family, name)
        return _read(family, path, path.stat().st_mtime_ns, tuple(names("statistic")) if family == "merge" else ())
    found = plugins.of(family)
    if name not in found:
        raise AllroundError(
            f"use the {word(family)} '{name}'",
            f"there is no {word(family)} of that name",
            suggestion(name, names(family)) + _OWN.get(family, ""),
        )
    return found[name]


def entries(family: str | None = None) -> list[Entry]:
    """Every method of a family, or of all families."""
    return [find(f, n) for f in ([family] if family else families.FAMILIES) for n in names(f)]


def methods(family: str | None = None) -> dict[str, list[str]]:
    """The names of all methods by family, or of one family's. Errors: no family of that name.

    >>> methods("statistic")
    {'statistic': ['activations', 'fisher', 'gram', 'kfac']}
    """
    known = families.FAMILIES
    if family is not None and family not in known:
        raise AllroundError(f"list the methods of '{family}'", "there is no such family", suggestion(family, known))
    return {one: names(one) for one in ([family] if family else known)}


def load(family: str, name: str) -> Callable[..., Any]:
    """The function or class of a method."""
    return find(family, name).load()


def stateless(family: str, name: str) -> Any:
    """An object of a class without settings and state; of a built-in one there is one object, as rows ask for it."""
    return load(family, name)() if name in plugins.of(family) else _made(family, name)


@cache
def _made(family: str, name: str) -> Any:
    return load(family, name)()


@cache
def _read(family: str, path: Path, _mtime: int, statistics: tuple[str, ...]) -> Entry:
    """What the file of a built-in method says. statistics: the names that a merge method may need."""
    asked = f"read the method file {path} of family '{family}'"
    file = parse(path, read_text(path, what="method file", asked=asked), asked)
    module = "allround." + ".".join(path.relative_to(families.PACKAGE).with_suffix("").parts)
    return entry_of(file, family, module, statistics)
