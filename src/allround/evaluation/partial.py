"""Scores from part of the rows: which rows to answer, and how sure the estimate of the whole is.

Where an earlier version answered all rows, only what changed has to be estimated: the score is the old one plus the
mean change on the rows that are answered (a difference estimator). Rows are drawn from strata, by whether the old
version was right and how sure it was, and more are drawn where more is likely to change (Neyman's allocation; Cochran,
Sampling Techniques, 3rd edition, chapters 5 and 7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.evaluation.flips import right_rows
from allround.evaluation.intervals import Interval
from allround.evaluation.predictions import Predictions

#: Metrics that are the mean over rows of right or wrong.
COUNTED = ("accuracy", "exact_match")
#: The normal quantile of a two-sided 95% interval.
_Z = 1.959964
#: Rows of a stratum at least; parts of the rows by the old version's confidence; least and most change that is
#: expected; rows that each stratum is taken to have seen besides its own.
FEWEST, PARTS, LEAST, MOST, PRIOR = 4, 2, 0.02, 0.5, 4


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task that are answered.

    rows: how many there are in all. strata: the row numbers of each stratum; chosen: of each, those that are answered.
    old: whether the old version answers each row rightly, (rows,); None where there is no old version.
    """

    task: str
    rows: int
    strata: Sequence[NDArray[np.int64]]
    chosen: Sequence[NDArray[np.int64]]
    old: NDArray[np.bool_] | None = None

    @property
    def answered(self) -> NDArray[np.int64]:
        """The numbers of all rows that are answered, in their order."""
        return np.sort(np.concatenate(list(self.chosen)))


def choose_rows(
    rows: Mapping[str, int],
    budget: float,
    *,
    old: Mapping[str, Predictions] | None = None,
    costs: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[TaskRows]:
    """The rows to answer, so that the sum over tasks of the estimates' variances is small.

    rows: of each task. budget: what may be spent: rows, or in the unit of `costs`. old: an earlier version's answers to
    all rows. costs: of a row of each task; None: 1.

    Errors: a budget that is too small for a few rows of each stratum.
    """
    price = {task: 1.0 if costs is None else max(costs[task], 1e-12) for task in rows}
    strata = {task: strata_of(count, None if old is None else old.get(task)) for task, count in rows.items()}
    needs: list[tuple[str, int, int, float]] = []  # of each stratum: its task, place, size, and deviation
    for task, parts in strata.items():
        needs += [(task, place, len(part), part_deviation) for place, (part, part_deviation) in enumerate(parts)]
    shares = [size / rows[task] * deviation / math.sqrt(price[task]) for task, _, size, deviation in needs]
    counts = allot(shares, [size for _, _, size, _ in needs], [price[task] for task, *_ in needs], budget)
    found = []
    for task, count in rows.items():
        generator = np.random.default_rng(seed_of(seed, "partial", task))
        own = [n for (name, *_), n in zip(needs, counts, strict=True) if name == task]
        groups = [part for part, _ in strata[task]]
        chosen = [np.sort(generator.permutation(part)[:n]) for part, n in zip(groups, own, strict=True)]
        made = old.get(task) if old is not None else None
        found.append(TaskRows(task, count, groups, chosen, None if made is None else right_rows(made)))
    return found


def strata_of(count: int, old: Predictions | None) -> list[tuple[NDArray[np.int64], float]]:
    """Strata of a task's rows, each with the deviation that is expected in it: of right and wrong where there is no old
    version, else of what changes."""
    everything = np.arange(count)
    if old is None:
        return [(everything, 0.5)]
    if len(old) != count:
        raise AllroundError(f"estimate the task '{old.definition.name}' beside an old version",
                            f"it answered {len(old)} rows, and there are {count}",
                            "give the answers of the old version to the same rows")  # fmt: skip
    right = right_rows(old)
    sure = np.full(count, 0.5) if old.confidence is None else np.asarray(old.confidence, dtype=np.float64)
    found = []
    for group in (np.flatnonzero(right), np.flatnonzero(~right)):
        order = group[np.argsort(sure[group], kind="stable")]
        parts = min(PARTS, max(1, len(order) // (4 * FEWEST)))
        for part in np.array_split(order, parts):
            if len(part):
                change = float(np.clip(1 - sure[part].mean(), LEAST, MOST))
                found.append((np.sort(part), math.sqrt(change * (1 - change))))
    return found


def allot(shares: Sequence[float], sizes: Sequence[int], prices: Sequence[float], budget: float) -> list[int]:
    """How many rows of each stratum, in proportion to shares, at least a few and at most all, within the budget.

    >>> allot([1.0, 3.0], [100, 100], [1.0, 1.0], 40), allot([1.0, 1.0], [5, 100], [1.0, 1.0], 40)
    ([10, 30], [5, 35])
    """
    least = [min(FEWEST, size) for size in sizes]
    if sum(n * price for n, price in zip(least, prices, strict=True)) > budget:
        needed = sum(n * price for n, price in zip(least, prices, strict=True))
        raise AllroundError("estimate scores from part of the rows",
                            f"the budget of {budget:g} is too small: a few rows of each group take {needed:g}",
                            "raise the budget")  # fmt: skip

    def at(scale: float) -> list[int]:
        return [min(size, max(n, int(scale * share))) for share, n, size in zip(shares, least, sizes, strict=True)]

    low, high = 0.0, 2 * max(size / max(share, 1e-12) for share, size in zip(shares, sizes, strict=True))
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(n * price for n, price in zip(at(middle), prices, strict=True)) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return at(low)


def estimate(drawn: TaskRows, right: NDArray[np.bool_]) -> Interval:
    """The score on all rows, with its 95% interval.

    right: whether each row of `drawn.answered` is answered rightly, in that order.

    Formula: mean(old) + sum_h N_h / N mean_h(new - old), and without an old version sum_h N_h / N mean_h(new).
    Variance: sum_h (N_h / N)^2 (1 - n_h / N_h) p_h (1 - p_h) / n_h, p_h being the share of rows of stratum h that
    changed (that are right), drawn towards that of all strata (towards one half) as if `PRIOR` more rows had been seen:
    a stratum in which nothing changed is not taken to be certain. Without an old version the interval is that of
    Agresti and Coull (1998), about the share with these rows.
    """
    where = {int(row): place for place, row in enumerate(drawn.answered)}
    parts = []
    for part, chosen in zip(drawn.strata, drawn.chosen, strict=True):
        new = right[[where[int(row)] for row in chosen]].astype(np.float64)
        parts.append((part, new if drawn.old is None else new - drawn.old[chosen]))
    common = 0.5
    if drawn.old is not None:
        common = (sum(float(np.abs(gap).sum()) for _, gap in parts) + 1) / (len(right) + 2)
    value = middle = 0.0 if drawn.old is None else float(drawn.old.mean())
    variance = 0.0
    for part, gap in parts:
        weight, count = len(part) / drawn.rows, len(gap)
        share = (float(np.abs(gap).sum()) + PRIOR * common) / (count + PRIOR)
        value += weight * float(gap.mean())
        middle += weight * (share if drawn.old is None else float(gap.mean()))
        variance += weight**2 * (1 - count / len(part)) * share * (1 - share) / count
    half = _Z * math.sqrt(variance)
    return Interval(value, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True)
class PartialScores:
    """Scores that were estimated from part of the rows.

    answered: of each task, rows that were answered; rows: all of them. seconds: what it took; full_seconds: what all
    rows would take at the same speed. beside: the old version, in words.
    """

    scores: Mapping[str, Interval]
    answered: Mapping[str, int]
    rows: Mapping[str, int]
    seconds: float
    full_seconds: float
    beside: str | None = None
    notes: Sequence[str] = field(default=())
