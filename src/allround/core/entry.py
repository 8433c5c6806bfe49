"""What is known of a method before it is imported, and the check of values for its parameters."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError, suggestion


@dataclass(frozen=True)
class Parameter:
    """One keyword of a method."""

    name: str
    type: str
    default: object
    required: bool
    search: tuple[object, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What is known of a method before it is imported."""

    name: str
    family: str
    room: str
    #: The file that it was read from.
    path: Path
    module: str
    attribute: str
    summary: str
    source: str
    #: Titles of the papers that it implements.
    papers: tuple[str, ...]
    needs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    #: What the method declares beside source, paper and needs, defaults included.
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, object]:
        return {p.name: p.default for p in self.parameters if not p.required}

    def needed(self, values: Mapping[str, object]) -> tuple[str, ...]:
        """What the method takes beside weights with these parameters: all that it `needs`, or the one of them that
        the parameter called `needs_by` names."""
        by = self.facts["needs_by"]
        return self.needs if by is None else tuple(need for need in self.needs if need == values[by])

    def load(self) -> Callable[..., Any]:
        """Import the file and return its function or class."""
        loaded: Callable[..., Any] = getattr(importlib.import_module(self.module), self.attribute)
        return loaded

    def resolve(self, given: Mapping[str, object]) -> dict[str, object]:
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


def _check_type(entry: Entry, parameter: Parameter, value: object) -> None:
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
