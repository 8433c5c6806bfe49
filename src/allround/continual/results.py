"""What came of a stream: scores after each arrival, what was forgotten, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from allround.evaluation.intervals import Interval, over_seeds

#: What is said of a course, and what it means.
MEASURES = {
    "final": "the mean over arrivals of the score after the last one",
    "average": "the mean over arrivals t of the mean score on all arrivals up to t, after t",
    "learned": "the mean score on an arrival right after it came",
    "forgetting": "the best score that an arrival ever had, less its score in the end; the mean over all but the last",
    "backward": "the score of an arrival in the end, less that right after it came; the mean over all but the last",
}
#: What is said beside it of a system that picks the arrival of a row by itself.
PICKS = {
    "picked": "the share of rows whose arrival is found, the mean over arrivals after the last one",
    "oracle": "the final score if the arrival of each row were known",
}


@dataclass(frozen=True, eq=False)
class Course:
    """One strategy through one order of arrivals with one seed.

    scores: (T, T), of arrival k (column) after arrival t (row), higher is better; NaN above the diagonal. bytes, rows,
    seconds, steps: after each arrival. stored: numbers in the system in the end. picked, oracle: as `scores`, the share
    of rows whose arrival is found and the score if it were known; NaN where nothing picks an arrival.
    """

    strategy: str
    order: int
    seed: int
    arrivals: tuple[str, ...]
    scores: NDArray[np.float64]
    bytes: Sequence[int]
    rows: Sequence[int]
    seconds: Sequence[float]
    steps: Sequence[int]
    stored: int
    picked: NDArray[np.float64] = field(default_factory=lambda: np.full((1, 1), np.nan))
    oracle: NDArray[np.float64] = field(default_factory=lambda: np.full((1, 1), np.nan))

    @property
    def picks(self) -> bool:
        """Whether the arrival of a row is picked, in the end."""
        return bool(np.isfinite(self.picked[-1]).any())

    @property
    def measures(self) -> dict[str, float]:
        """The values of `MEASURES`, and of `PICKS` where an arrival is picked.

        >>> scores = np.array([[1.0, np.nan], [0.6, 0.8]])
        >>> one = Course("none", 0, 0, ("a", "b"), scores, [0], [0], [1.0], [1], 10)
        >>> {name: round(value, 3) for name, value in one.measures.items()}
        {'final': 0.7, 'average': 0.85, 'learned': 0.9, 'forgetting': 0.4, 'backward': -0.4}
        """
        a, last = self.scores, len(self.scores) - 1
        diagonal = a.diagonal()
        return {
            "final": float(a[last].mean()),
            "average": float(np.nanmean(a, 1).mean()),
            "learned": float(diagonal.mean()),
            "forgetting": float((np.nanmax(a[:, :last], 0) - a[last, :last]).mean()),
            "backward": float((a[last, :last] - diagonal[:last]).mean()),
            **({"picked": float(np.nanmean(self.picked[-1])), "oracle": float(np.nanmean(self.oracle[-1]))}
               if self.picks else {}),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class StreamResults:
    """All courses through a stream. facts: what was measured on what, for people. metric: of the tasks, where they have
    the same one."""

    title: str
    scenario: str
    courses: tuple[Course, ...]
    metric: str
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def strategies(self) -> list[str]:
        """In the order of their final scores, the best first."""
        names = dict.fromkeys(course.strategy for course in self.courses)
        return sorted(names, key=lambda name: -self.mean(name, "final").value)

    def of(self, strategy: str) -> list[Course]:
        return [course for course in self.courses if course.strategy == strategy]

    def mean(self, strategy: str, measure: str) -> Interval:
        """The mean over seeds and orders, with Student's 95% interval over them; no ends where there is one course."""
        return _interval([course.measures[measure] for course in self.of(strategy)])

    def difference(self, one: str, other: str, measure: str = "final") -> Interval:
        """How far a strategy lies above another one, course by course of the same order and seed."""
        known = {(course.order, course.seed): course for course in self.of(other)}
        pairs = [(course, known[course.order, course.seed]) for course in self.of(one)
                 if (course.order, course.seed) in known]  # fmt: skip
        return _interval([a.measures[measure] - b.measures[measure] for a, b in pairs])

    def cost(self, strategy: str, what: str) -> float:
        """The mean over courses of bytes, rows, seconds or steps in the end."""
        return float(np.mean([getattr(course, what)[-1] for course in self.of(strategy)]))


def _interval(values: Sequence[float]) -> Interval:
    if len(values) < 2:
        return Interval(values[0], None, None)
    return over_seeds(values, np.tile(np.array(values)[:, None], 2))
