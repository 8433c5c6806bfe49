"""What came of a stream: scores after each arrival, what was forgotten, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from allround.evaluation.intervals import Interval, mean_interval

#: What is said of a course, and what it means.
MEASURES = {
    "final": "the mean over arrivals of the score after the last one",
    "average": "the mean over arrivals t of the mean score on all arrivals up to t, after t",
    "learned": "the mean score on an arrival right after it came",
    "forgetting": "the best score that an arrival ever had, less its score in the end; the mean over all but the last",
    "backward": "the score of an arrival in the end, less that right after it came; the mean over all but the last",
}
#: What is said beside it where each arrival asks what earlier ones asked (Lopez-Paz and Ranzato, NeurIPS 2017, who take
#: a model before any training in place of the floor).
AHEAD = {
    "forward": "the score of an arrival before it is learned, less the floor of its rows; the mean over all but the "
    "first",
}
#: What is said beside it where the course of `joint` is there (Chaudhry et al., ECCV 2018: intransigence).
BEHIND = {"behind": "the score of joint on an arrival right after it came, less that of the strategy; the mean"}
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
    of rows whose arrival is found and the score if it were known; NaN where nothing picks an arrival. ahead: (T,), of
    each arrival before it is learned, where it can be answered by then, less the floor; NaN where it cannot.
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
    ahead: NDArray[np.float64] = field(default_factory=lambda: np.full(1, np.nan))

    @property
    def picks(self) -> bool:
        """Whether the arrival of a row is picked, in the end."""
        return bool(np.isfinite(self.picked[-1]).any())

    @property
    def measures(self) -> dict[str, float]:
        """The values of `MEASURES`, of `AHEAD` where arrivals are answered ahead, and of `PICKS` where an arrival is
        picked.

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
            **({"forward": float(np.nanmean(self.ahead))} if np.isfinite(self.ahead).any() else {}),
            **({"picked": float(np.nanmean(self.picked[-1])), "oracle": float(np.nanmean(self.oracle[-1]))}
               if self.picks else {}),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class StreamResults:
    """All courses through a stream. facts: what was measured on what, for people. metric: of the tasks, where they have
    the same one. overlap: of arrivals in the features of the base; kernel: in the gradients of the whole network, where
    its outputs have some."""

    title: str
    scenario: str
    courses: tuple[Course, ...]
    metric: str
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)
    overlap: ArrivalOverlap | None = None
    kernel: ArrivalOverlap | None = None

    @cached_property
    def strategies(self) -> list[str]:
        """In the order of their final scores, the best first."""
        names = dict.fromkeys(course.strategy for course in self.courses)
        return sorted(names, key=lambda name: -self.mean(name, "final").value)

    def of(self, strategy: str) -> list[Course]:
        return [course for course in self.courses if course.strategy == strategy]

    def mean(self, strategy: str, measure: str) -> Interval:
        """The mean over seeds and orders, with Student's 95% interval over them; no ends where there is one course."""
        return mean_interval([course.measures[measure] for course in self.of(strategy)])

    def difference(self, one: str, other: str, measure: str = "final") -> Interval:
        """How far a strategy lies above another one, course by course of the same order and seed."""
        known = {(course.order, course.seed): course for course in self.of(other)}
        pairs = [(course, known[course.order, course.seed]) for course in self.of(one)
                 if (course.order, course.seed) in known]  # fmt: skip
        return mean_interval([a.measures[measure] - b.measures[measure] for a, b in pairs])

    def behind(self, strategy: str) -> Interval:
        """The value of `BEHIND`."""
        known = {(course.order, course.seed): course.scores.diagonal() for course in self.of("joint")}
        return mean_interval([float((known[one.order, one.seed] - one.scores.diagonal()).mean())
                          for one in self.of(strategy)])  # fmt: skip

    def spread(self, strategy: str) -> tuple[float, float] | None:
        """The standard deviation of the final score over orders, of means over seeds, and that over the seeds of an
        order, the root of its mean square; None unless there are two of both."""
        by_order: dict[int, list[float]] = {}
        for course in self.of(strategy):
            by_order.setdefault(course.order, []).append(course.measures["final"])
        if len(by_order) < 2 or min(map(len, by_order.values())) < 2:
            return None
        within = np.sqrt(np.mean([np.var(values, ddof=1) for values in by_order.values()]))
        return float(np.std([np.mean(values) for values in by_order.values()], ddof=1)), float(within)

    def cost(self, strategy: str, what: str) -> float:
        """The mean over courses of bytes, rows, seconds or steps in the end."""
        return float(np.mean([getattr(course, what)[-1] for course in self.of(strategy)]))


@dataclass(frozen=True, eq=False)
class ArrivalOverlap:
    """How alike arrivals are to the base, by `overlap`. names: of arrivals; values: (T, T)."""

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def drops(self, courses: Sequence[Course]) -> list[tuple[float, float]]:
        """For each two arrivals of which one came right after the other: their overlap, and how much the score on the
        first fell as the second was learned; the mean over courses in which they came so. Later arrivals find less
        left to forget, and would say nothing of how alike the two are."""
        found: dict[tuple[int, int], list[float]] = {}
        for course in courses:
            if set(course.arrivals) <= set(self.names):
                places = [self.names.index(name) for name in course.arrivals]
                for new in range(1, len(places)):
                    fell = float(course.scores[new - 1, new - 1] - course.scores[new, new - 1])
                    found.setdefault((places[new - 1], places[new]), []).append(fell)
        return [(float(self.values[pair]), float(np.mean(fell))) for pair, fell in sorted(found.items())]

    def correlation(self, courses: Sequence[Course]) -> float | None:
        """Spearman's, of overlap and drop over pairs of arrivals; None for fewer than three, or no difference."""
        from scipy.stats import spearmanr

        pairs = np.array(self.drops(courses))
        if len(pairs) < 3 or np.ptp(pairs, 0).min() < 1e-12:
            return None
        return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def overlap(
    features: Sequence[NDArray[np.float64]], components: int = 10, *, centred: bool = True
) -> NDArray[np.float64]:
    """How much the subspaces of the features of several sets of rows overlap: (T, T), each from 0 to 1.

    features: of each set, (n, d). Formula: ||V_s' V_t||^2 / k, with V (d, k) the first right singular vectors of the
    features, which are centred first unless they are gradients; the mean squared cosine of the principal angles.
    Doan et al., AISTATS 2021, arXiv:2010.04003, section 3: the NTK overlap matrix V_s' V_t, where features are the
    gradients of outputs by all weights; features of an encoder are those of a linear head. Differs: one number of the
    matrix.

    >>> turned = [np.array([[1.0, 0, 0], [-1, 0, 0]]), np.array([[0.0, 1, 0], [0, -1, 0]])]
    >>> overlap(turned, 1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    spans = []
    for one in features:
        _, sizes, vectors = np.linalg.svd(one - one.mean(0) * centred, full_matrices=False)
        spans.append(vectors[: max(1, int((sizes > 1e-6 * sizes[0]).sum()))])
    k = min(components, *map(len, spans))
    return np.array([[float(np.square(a[:k] @ b[:k].T).sum()) / k for b in spans] for a in spans])
