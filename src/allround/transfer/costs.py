"""What is made once and used by several: each user's time counts what it uses, whoever made it first."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class _Frame:
    """Something that is being made: the parts that it used so far, and the time that went into making them."""

    used: set[Hashable] = field(default_factory=set)
    spent: float = 0.0


class Costs:
    """Parts by their keys, and what each took.

    >>> costs = Costs()
    >>> costs.timed(lambda: costs.once("features", lambda: 3) + 1)[0], costs.once("features", lambda: 5)
    (4, 3)
    """

    def __init__(self) -> None:
        self._parts: dict[Hashable, tuple[Any, float, frozenset[Hashable]]] = {}
        self._frames: list[_Frame] = []

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The part of a key; made where it is asked for the first time."""
        if key not in self._parts:
            value, own, frame = self._run(make)
            self._parts[key] = value, own, frozenset({*frame.used, key})
        found: T
        found, _, used = self._parts[key]
        if self._frames:
            self._frames[-1].used |= used
        return found

    def timed(self, make: Callable[[], T]) -> tuple[T, float]:
        """What `make` gives, and the seconds that it would have taken alone: with all parts that it used."""
        value, own, frame = self._run(make)
        return value, own + sum(self._parts[key][1] for key in frame.used)

    def _run(self, make: Callable[[], T]) -> tuple[T, float, _Frame]:
        """What `make` gives, its seconds without those of parts that were made in between, and what it used."""
        frame = _Frame()
        self._frames.append(frame)
        start = perf_counter()
        try:
            value = make()
        finally:
            self._frames.pop()
        whole = perf_counter() - start
        if self._frames:
            self._frames[-1].spent += whole
        return value, whole - frame.spent, frame
