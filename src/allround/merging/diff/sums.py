"""What tensors add up to, and what follows from the sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from allround.merging.diff.changes import Part


@dataclass(frozen=True)
class Spectrum:
    model: int
    rank: float
    held_by: int
    side: int


@dataclass
class Sums:
    """What a tensor adds up to, k models; a model that lacks the tensor adds nothing."""

    tensors: int
    entries: int
    base: float
    #: (k,): entries and base's squared norm where the model has the tensor, <base, change>, entries changed, largest.
    has: np.ndarray
    bases: np.ndarray
    dots: np.ndarray
    changed: np.ndarray
    largest: np.ndarray
    #: (k, k): <change i, change j>; and the squared norm of change i where j has the tensor as well.
    gram: np.ndarray
    beside: np.ndarray
    #: (k + 1,): entries that so many models change noticeably.
    noticed: np.ndarray
    #: Conflicting entries, |sum of changes|, sum of magnitudes.
    clash: np.ndarray
    #: (2, k, k): entries that both models of a pair change noticeably, and those in opposite directions.
    pairs: np.ndarray

    @classmethod
    def empty(cls, k: int) -> Sums:
        row, square = np.zeros(k), np.zeros((k, k))
        rows = row, row.copy(), row.copy(), row.copy(), row.copy()
        return cls(0, 0, 0.0, *rows, square, square.copy(), np.zeros(k + 1), np.zeros(3), np.zeros((2, k, k)))

    def add(self, other: Sums) -> None:
        for name in self.__dataclass_fields__:
            if name != "largest":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = np.maximum(self.largest, other.largest)

    def cosines(self) -> list[list[float | None]]:
        k = len(self.has)
        return [[ratio(self.gram[i, j], math.sqrt(self.beside[i, j] * self.beside[j, i])) for j in range(k)]
                for i in range(k)]  # fmt: skip

    def conflicts(self) -> list[list[float | None]]:
        both, opposed = self.pairs
        k = len(self.has)
        return [[ratio(opposed[i, j], both[i, j]) for j in range(k)] for i in range(k)]

    def part(
        self,
        name: str,
        spectra: Iterable[Spectrum] = (),
        *,
        group: str | None = None,
        shape: list[int] | None = None,
        dtype: str | None = None,
    ) -> Part:
        norms = np.sqrt(self.gram.diagonal())
        here = range(len(self.has))
        cosines = self.cosines()
        pairs = [c for i, j in combinations(here, 2) if (c := cosines[i][j]) is not None]
        many = self.noticed[2:].sum()
        expected = sum(n * (1 - 2.0 ** (1 - m)) for m, n in enumerate(self.noticed) if m > 1)
        spectra = list(spectra)

        def middle(pick: Callable[[Spectrum], float], reduce: Callable[[list[float]], float]) -> list[float | None]:
            found = [[pick(s) for s in spectra if s.model == number] for number in here]
            return [reduce(values) if values else None for values in found] if spectra else []

        def each(pick: Callable[[int], float | None]) -> list[float | None]:
            return [pick(i) if self.has[i] else None for i in here]

        return Part(
            name,
            self.tensors,
            self.entries,
            math.sqrt(self.base),
            each(lambda i: float(norms[i])),
            each(lambda i: ratio(norms[i], math.sqrt(self.bases[i])) if norms[i] else 0.0),
            each(lambda i: ratio(self.changed[i], self.has[i])),
            each(lambda i: float(self.largest[i])),
            sum(pairs) / len(pairs) if pairs else None,
            ratio(self.clash[0], many),
            ratio(expected, many),
            ratio(many, self.noticed[1:].sum()) if len(self.has) > 1 else None,
            None if self.clash[2] == 0 else max(0.0, 1 - float(self.clash[1] / self.clash[2])),
            middle(lambda s: s.rank, median),
            middle(lambda s: s.held_by, median),
            middle(lambda s: s.held_by, max),
            middle(lambda s: s.side, median),
            group,
            shape,
            dtype,
        )


def ratio(one: float, other: float) -> float | None:
    return float(one / other) if other > 0 else None
