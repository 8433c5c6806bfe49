"""How sure a score is: the paired bootstrap over the examples of each task.

Examples are drawn with replacement, as many as there are, and every system is scored on the same draws; so a
difference between systems is judged on common ground. Intervals are percentile intervals at 95% (Efron and
Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 13).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.evaluation.predictions import Predictions, score
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array, better, judged, metric

LEVEL = 0.95

#: Entries of one block of the weights matrix: 16 MB, of which a few exist at a time.
_BLOCK = 2_000_000


class Interval(NamedTuple):
    """A value on all examples, and the 95% interval around it; None where it is undefined."""

    value: float
    low: float | None
    high: float | None


def interval(value: float, resampled: Array) -> Interval:
    """The 95% percentile interval; resamples without a value (NaN) are left out.

    None for the ends where fewer than half of the resamples have a value.

    >>> [round(end, 3) for end in interval(0.5, np.linspace(0, 1, 101))]
    [0.5, 0.025, 0.975]
    """
    known = resampled[np.isfinite(resampled)]
    if not len(known) or 2 * len(known) < len(resampled):
        return Interval(value, None, None)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of values, with Student's interval over them; no ends for a single one.

    >>> [round(end, 3) for end in mean_interval([1.0, 2.0, 3.0])], mean_interval([2.0]).low
    ([2.0, -0.484, 4.484], None)
    """
    if len(values) < 2:
        return Interval(values[0], None, None)
    return over_seeds(values, np.tile(np.array(values)[:, None], 2))


def over_seeds(values: Sequence[float], resampled: Array, *, level: float = LEVEL) -> Interval:
    """The mean over seeds of a value, and an interval that covers two sources of noise: seeds and rows.

    values: (n,) one for each seed. resampled: (n, B), the same values on B resamples of the rows, which are the same
    for all seeds. Half the width is sqrt((t * s / sqrt(n))^2 + (z * r)^2), where s is the standard deviation over
    seeds, t Student's quantile at n - 1 degrees of freedom, r the standard deviation over resamples of the mean over
    seeds, and z the normal quantile. With one seed there is the second part alone. None for the ends where fewer than
    half of the resamples have a value.

    >>> [round(end, 3) for end in over_seeds([1.0, 2.0, 3.0], np.full((3, 5), 2.0))]
    [2.0, -0.484, 4.484]
    >>> [round(end, 3) for end in over_seeds([2.0], np.array([[1.0, 3.0]]))]
    [2.0, -0.772, 4.772]
    """
    from scipy.special import stdtrit

    count, value, tail = len(values), float(np.mean(values)), (1 + level) / 2
    means = resampled.mean(0)
    known = means[np.isfinite(means)]
    if len(known) < 2 or 2 * len(known) < len(means):
        return Interval(value, None, None)
    seeds = float(stdtrit(count - 1, tail) * np.std(values, ddof=1) / math.sqrt(count)) if count > 1 else 0.0
    rows = NormalDist().inv_cdf(tail) * float(np.std(known, ddof=1))
    half = math.hypot(seeds, rows)
    return Interval(value, value - half, value + half)


def widening(count: int, *, level: float = LEVEL) -> float:
    """By how much a bootstrap over `count` runs is to be widened: see `Bootstrap.pooled`. With one run there is none.

    >>> round(widening(3), 3), widening(1)
    (2.689, 1.0)
    """
    from scipy.special import stdtrit

    if count < 2:
        return 1.0
    tail = (1 + level) / 2
    return math.sqrt(count / (count - 1)) * float(stdtrit(count - 1, tail)) / NormalDist().inv_cdf(tail)


def task_level(tasks: int) -> float:
    """The level of an interval for one of several tasks, so that all of them hold together at 95% (Bonferroni).

    >>> task_level(1), task_level(10)
    (0.95, 0.995)
    """
    return 1 - (1 - LEVEL) / tasks


def verdict(difference: Interval) -> str:
    """What a paired difference (higher is better) says: "better", "worse" or "no difference found".

    >>> verdict(Interval(0.02, -0.01, 0.05)), verdict(Interval(0.02, 0.01, 0.05))
    ('no difference found', 'better')
    """
    if difference.low is not None and difference.low > 0:
        return "better"
    if difference.high is not None and difference.high < 0:
        return "worse"
    return "no difference found"


def retention(score: float, reference: float, better: str) -> float | None:
    """How much of the reference's score a system keeps: 1 is all of it.

    score / reference, or reference / score where lower scores are better. None, undefined, where the
    reference is not above 0, or a score of which lower is better is 0.

    >>> retention(0.45, 0.9, "higher"), retention(2.0, 1.0, "lower"), retention(0.4, -0.1, "higher")
    (0.5, 0.5, None)
    """
    found = float(_retention(np.array([score]), np.array([reference]), better)[0])
    return None if np.isnan(found) else found


def _retention(score: Array, reference: Array, better: str) -> Array:
    over, under = (score, reference) if better == "higher" else (reference, score)
    defined = (reference > 0) & (under > 0)
    found: Array = np.where(defined, over, np.nan) / np.where(defined, under, 1.0)
    return found


def draws(task: str, count: int, *, seed: int, resamples: int) -> Iterator[Array]:
    """How often each of `count` examples is drawn: blocks (b, count) whose rows are `resamples` in all.

    The draws follow from the seed and the task's name alone, so every system of every board has the same.

    >>> [block.sum(1).tolist() for block in draws("t", 5, seed=0, resamples=3)]
    [[5.0, 5.0, 5.0]]
    """
    generator = np.random.default_rng(seed_of(seed, "bootstrap", task))
    rows = max(1, _BLOCK // count)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(0, count, (size, count))
        drawn += np.arange(size)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


@dataclass(frozen=True)
class Bootstrap:
    """Scores of systems on tasks, once on all examples and once on each resample.

    `points[system, task]` is a number, `resampled[system, task]` an array (B,). Rows of the arrays are paired
    over systems, and independent over tasks. Means are over the tasks `counted`, or over all where it is None.
    """

    points: Mapping[tuple[str, str], float]
    resampled: Mapping[tuple[str, str], Array]
    better: Mapping[str, str]
    reference: str | None = None
    counted: frozenset[str] | None = None

    @classmethod
    def make(
        cls,
        predictions: Mapping[tuple[str, str], Predictions],
        *,
        reference: str | None = None,
        seed: int = 0,
        resamples: int = 1000,
        counted: Iterable[str] | None = None,
    ) -> Bootstrap:
        """Score every system on the same resamples of each task. Keys are (system, task).

        An AllroundError where systems answered different rows of a task.
        """
        by_task: dict[str, dict[str, Predictions]] = {}
        for (system, task), made in predictions.items():
            by_task.setdefault(task, {})[system] = made
        points, resampled = {}, {}
        for task, made_by in by_task.items():
            _check_paired(task, made_by)
            resamplers = {}
            for system, made in made_by.items():
                points[system, task] = score(made)
                rules, answers = metric(made.definition.metric), judged(made.definition, made.predictions, made.scores)
                resamplers[system] = rules.resampler(made.targets, answers, made.definition)
            count = len(next(iter(made_by.values())))
            blocks: dict[str, list[Array]] = {system: [] for system in made_by}
            for weights in draws(task, count, seed=seed, resamples=resamples):
                for system, resampler in resamplers.items():
                    blocks[system].append(resampler(weights))
            for system in made_by:
                resampled[system, task] = np.concatenate(blocks[system])
        directions = {task: better(next(iter(made.values())).definition.metric) for task, made in by_task.items()}
        return cls(points, resampled, directions, reference, None if counted is None else frozenset(counted))

    @classmethod
    def pooled(cls, parts: Sequence[Bootstrap], *, seed: int = 0) -> Bootstrap:
        """The mean over several runs of the same systems (seeds, folds), resampled in two steps: runs, then rows.

        In each resample, as many runs are drawn as there are, with replacement, the same for all systems, and the
        score of each is that on its resampled rows. Few draws from few runs vary too little: what the drawn runs
        differ from the mean of all is multiplied by sqrt(n / (n - 1)) * t / z, where t is Student's quantile at n - 1
        degrees of freedom and z the normal one, so that the interval is as wide as Student's would be.

        >>> one, two = (Bootstrap({("s", "t"): x}, {("s", "t"): np.full(4, x)}, {"t": "higher"}) for x in (0.5, 0.7))
        >>> pooled = Bootstrap.pooled([one, two])
        >>> round(pooled.points["s", "t"], 3), round(widening(2), 2), round(widening(5), 2)
        (0.6, 9.17, 1.58)
        """
        first, count = parts[0], len(parts)
        resamples = len(next(iter(first.resampled.values())))
        drawn = np.random.default_rng(seed_of(seed, "runs")).integers(0, count, (resamples, count))
        shares = np.stack([np.bincount(row, minlength=count) for row in drawn]) / count
        points, resampled = {}, {}
        for key in first.points:
            rows = np.stack([part.resampled[key] for part in parts])
            points[key] = float(np.mean([part.points[key] for part in parts]))
            resampled[key] = rows.mean(0) + widening(count) * ((shares - 1 / count) * rows.T).sum(1)
        return cls(points, resampled, first.better, first.reference, first.counted)

    def score(self, system: str, task: str) -> Interval:
        """The score and its interval."""
        return interval(self.points[system, task], self.resampled[system, task])

    def retention(self, system: str, task: str) -> Interval | None:
        """The retention of one task and its interval, paired by resample; None where it is undefined."""
        point = self._point(system, task)
        return None if point is None else interval(point, self._resamples(system, task))

    def mean_retention(self, system: str) -> Interval | None:
        """The mean over the tasks whose retention is defined; None where there are none."""
        tasks = self.defined(system)
        if not tasks:
            return None
        return interval(float(np.mean([self._point(system, t) for t in tasks])), self._mean(system, tasks))

    def worst_retention(self, system: str) -> tuple[str, Interval] | None:
        """The task of least retention, and that retention; each resample has a worst task of its own.

        A least of several noisy numbers tends to lie below each, so the interval leans to low values.
        """
        tasks = self.defined(system)
        if not tasks:
            return None
        worst = min(tasks, key=lambda task: self._point(system, task) or 0.0)
        rows = np.stack([self._resamples(system, task) for task in tasks])
        least = np.where(np.isnan(rows), np.inf, rows).min(0)
        return worst, interval(self._point(system, worst) or 0.0, least)

    def difference(self, system: str, other: str) -> Interval | None:
        """Mean retention of `system` less that of `other`, over the tasks where both are defined."""
        tasks = [task for task in self.defined(system) if task in self.defined(other)]
        if not tasks:
            return None
        means = [float(np.mean([self._point(s, t) for t in tasks])) for s in (system, other)]
        return interval(means[0] - means[1], self._mean(system, tasks) - self._mean(other, tasks))

    def mean_over(self, system: str, tasks: Sequence[str]) -> tuple[float, Array]:
        """Mean retention over tasks where it is defined: on all examples, and on each resample."""
        return float(np.mean([self._point(system, task) for task in tasks])), self._mean(system, tasks)

    def task_difference(self, system: str, other: str, task: str) -> Interval:
        """The score of `system` less that of `other`, turned so that higher is better."""
        sign = 1.0 if self.better[task] == "higher" else -1.0
        point = self.points[system, task] - self.points[other, task]
        return interval(sign * point, sign * (self.resampled[system, task] - self.resampled[other, task]))

    def _point(self, system: str, task: str) -> float | None:
        if self.reference is None:
            return None
        return retention(self.points[system, task], self.points[self.reference, task], self.better[task])

    def _resamples(self, system: str, task: str) -> Array:
        reference = self.resampled[self.reference or "", task]
        return _retention(self.resampled[system, task], reference, self.better[task])

    def defined(self, system: str) -> list[str]:
        """The tasks that count, and on which the system's retention is defined."""
        counted = [t for s, t in self.points if s == system and (self.counted is None or t in self.counted)]
        return [task for task in counted if self._point(system, task) is not None]

    def mean_score(self, system: str, tasks: Sequence[str], other: str | None = None) -> Interval:
        """The mean score over tasks, or how far it lies above that of another system."""
        rivals = [] if other is None else [(other, -1.0)]
        signs = [(system, 1.0), *rivals]
        point = sum(sign * float(np.mean([self.points[s, t] for t in tasks])) for s, sign in signs)
        rows = [sign * np.mean([self.resampled[s, t] for t in tasks], axis=0) for s, sign in signs]
        return interval(point, np.sum(rows, axis=0))

    def kept(self, system: str, tasks: Sequence[str]) -> Interval | None:
        """The mean retention over those of the tasks where it is defined; None where there are none."""
        known = [task for task in tasks if self._point(system, task) is not None]
        return interval(*self.mean_over(system, known)) if known else None

    def _mean(self, system: str, tasks: Sequence[str]) -> Array:
        rows = np.stack([self._resamples(system, task) for task in tasks])
        known: NDArray[np.bool_] = ~np.isnan(rows)
        total = np.where(known, rows, 0.0).sum(0)
        return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _check_paired(task: str, made_by: Mapping[str, Predictions]) -> None:
    (first, reference), *others = made_by.items()
    for system, made in others:
        check_same_rows(reference, made, f"compare '{system}' with '{first}' on the task '{task}'")


def check_same_rows(one: Predictions, other: Predictions, asked: str) -> None:
    """An error where two predictions are not of the same rows. asked: what they are wanted for."""
    if not same_rows(one, other):
        raise AllroundError(
            asked,
            f"they did not answer the same rows: {len(other)} of '{other.split}' against {len(one)} of '{one.split}', "
            "or other targets",
            "predict the same split of the same data with both",
        )


def same_rows(one: Predictions, other: Predictions) -> bool:
    """Whether two predictions are of the same rows, as far as their targets tell."""
    return one.split == other.split and len(one) == len(other) and _equal(one.targets, other.targets)


def _equal(one: Encoded, other: Encoded) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
