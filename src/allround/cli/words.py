"""The words of a command line as values: lists, `NAME=VALUE` options, and parameters of methods as options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from allround.core.errors import AllroundError, suggestion

#: What an option of a method can be: the types that parameters have.
Value = bool | int | float | str | list[float]
Plain = TypeVar("Plain", int, float, str)


def split(text: str | None, option: str) -> list[str]:
    """Names separated by commas; an option that is given must name something."""
    found = [part.strip() for part in (text or "").split(",") if part.strip()]
    if text is not None and not found:
        raise AllroundError(f"read {option} {text!r}", "it names nothing", f"give names, or leave {option} out")
    return found


def methods_of(text: str, option: str = "--methods") -> list[str]:
    """Methods with commas between; commas in brackets belong to a value.

    >>> methods_of("equal, cagrad:c=0.2,fixed:weights=[1, 2]")
    ['equal', 'cagrad:c=0.2', 'fixed:weights=[1, 2]']
    """
    found = [part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text)]
    if not any(found):
        raise AllroundError(f"read {option} {text!r}", "it names nothing", f"give names, or leave {option} out")
    return [part for part in found if part]


def pairs_of(given: Sequence[str] | None, option: str, type_: type[Plain]) -> dict[str, Plain]:
    """`NAME=VALUE` options as a dictionary.

    >>> pairs_of(["train=100"], "--limit", int)
    {'train': 100}
    """
    found: dict[str, Plain] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError
            found[name.strip()] = type_(value.strip())
        except ValueError:
            words = {"int": "a whole number", "float": "a number"}.get(type_.__name__, "a value")
            raise AllroundError(
                f"read {option} {text!r}", "it is not of the form NAME=VALUE", f"give a name, '=' and {words}"
            ) from None
    return found


def share_of(given: Sequence[str], option: str) -> float | None:
    """The one share that an option was given without a name; None where there is none.

    >>> share_of(["0.95"], "--keep")
    0.95
    """
    try:
        found = [float(text) for text in given]
    except ValueError:
        found = []
    if len(found) != len(given) or len(found) > 1:
        raise AllroundError(
            f"read {option} {' '.join(map(repr, given))}",
            "it is neither of the form NAME=VALUE nor a single number",
            "give a task's name, '=' and a number, or one number for all guards",
        )
    return found[0] if found else None


def part_of_all(text: str, option: str) -> float:
    """A share, as a number from 0 to 1 or in percent.

    >>> part_of_all("2%", "--max-flips"), part_of_all("0.98", "--keep")
    (0.02, 0.98)
    """
    number, of_hundred, rest = text.strip().partition("%")
    try:
        found = float(number) / (100 if of_hundred else 1)
        if rest or not 0 <= found <= 1:
            raise ValueError
    except ValueError:
        raise AllroundError(f"read {option} {text!r}", "it is not a share", "give such as 0.98 or 98%") from None
    return found


def extras(words: Sequence[str], method: str) -> tuple[list[str], dict[str, Value]]:
    """Split words into paths and the merge method's own options."""
    from allround.core import registry

    types = {p.name: p.type for p in registry.find("merge", method).parameters}
    return read_options(words, types, f"merge method '{method}'")


def read_options(words: Sequence[str], types: Mapping[str, str], owner: str) -> tuple[list[str], dict[str, Value]]:
    """Split words into paths and options by their types (`--keep 0.2`, `--keep=0.2`, `--weights 0.3,0.7`).

    owner: whose options they are, in messages.
    """
    paths: list[str] = []
    values: dict[str, Value] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            paths.append(word)
            continue
        option, equals, text = word.removeprefix("--").partition("=")
        name = option.replace("-", "_")
        if name not in types:
            raise AllroundError(
                f"set '{name}' of {owner}",
                f"it has no parameter '{name}'",
                suggestion(name, types) if types else "leave it out: there are none",
            )
        if not equals:
            if not rest:
                raise AllroundError(f"read the option --{option}", "no value follows it", f"give --{option} VALUE")
            text = rest.pop(0)
        values[name] = _value(text, types[name], option)
    return paths, values


def _value(text: str, type_: str, option: str) -> Value:
    try:
        if type_ == "bool":
            return {"true": True, "false": False}[text.lower()]
        if type_ == "int":
            return int(text)
        if type_ == "Each":
            numbers = [float(part) for part in text.split(",")]
            return numbers if len(numbers) > 1 else numbers[0]
        return float(text) if type_ == "float" else text
    except (ValueError, KeyError):
        words = {"Each": "a float, or one for each model with commas between", "int": "a whole number",
                 "bool": "true or false"}.get(type_, f"a {type_}")  # fmt: skip
        one = " (it is the same for all models)" if "," in text and type_ != "Each" else ""
        raise AllroundError(f"read --{option} {text}", f"it is not {words}{one}", f"give {words}") from None
