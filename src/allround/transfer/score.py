"""How good an estimate of transfer is: its ranking of sources for each target, against what was measured.

Every score is taken for one target at a time and then averaged: targets differ in how much they can gain, so that
ranks over all pairs at once would say more of targets than of sources. Sources that an estimate calls equal share
their places, so that no score depends on the order of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.transfer.matrix import TaskMatrix, Values

#: How regret is counted: as a difference of measured values; as a share of the best score, where values are gains
#: relative to no transfer (0.1: ten percent better); or as a share of it, where values are scores.
Regret = Literal["difference", "gain", "score"]


@dataclass(frozen=True)
class TransferScore:
    """The scores of one estimate: one number for each target, NaN where fewer than two sources are known.

    ndcg: 1 is the measured order. regret: for each k, how much worse the k sources that rank first are on average than
    the k best; 0 is best. spearman: the rank correlation. gap: the measured value of the best source less that of the
    first, shared between first ones that are equal. seconds: what the estimate took.
    """

    name: str
    targets: tuple[str, ...]
    ndcg: Values
    regret: Mapping[int, Values]
    spearman: Values
    gap: Values
    seconds: float = 0.0

    def values(self, metric: str) -> Values:
        """The numbers of a metric: `ndcg`, `spearman`, `gap` or `regret@K`. Errors: another metric."""
        known = {"ndcg": self.ndcg, "spearman": self.spearman, "gap": self.gap}
        known |= {f"regret@{k}": values for k, values in self.regret.items()}
        if metric not in known:
            raise AllroundError(
                f"take the score '{metric}' of '{self.name}'", "there is none", suggestion(metric, known)
            )
        return known[metric]

    def mean(self, metric: str) -> float:
        """The mean over the targets whose score is known."""
        return _mean(self.values(metric))


@dataclass(frozen=True)
class ScoreDifference:
    """How much the mean of a metric differs between two estimates, on the same targets.

    low, high: the interval of the paired bootstrap over targets.
    """

    metric: str
    mean: float
    low: float
    high: float

    @property
    def found(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def score(
    estimate: TaskMatrix,
    measured: TaskMatrix,
    *,
    ks: Sequence[int] = (1, 3, 5),
    regret: Regret = "difference",
    counted: TaskMatrix | None = None,
) -> TransferScore:
    """Score an estimate on each target of `measured`, over the sources whose value both know.

    NDCG takes a gain of 2^rank - 1, the worst source having rank 1, as TaskWeb does (Kim et al., EMNLP 2023,
    arXiv:2305.13256). ks: the numbers of sources that regret is counted for. counted: what regret is counted in, where
    that is not what ranks the sources; it has the tasks of `measured`. Errors: no target or source in common.

    >>> truth = TaskMatrix.of_pairs("gain", {("a", "t"): 0.3, ("b", "t"): 0.1, ("c", "t"): 0.2})
    >>> guess = TaskMatrix.of_pairs("size", {("a", "t"): 2.0, ("b", "t"): 3.0, ("c", "t"): 1.0})
    >>> found = score(guess, truth, ks=(1, 2))
    >>> [round(float(value[0]), 4) for value in (found.ndcg, found.regret[1], found.regret[2], found.spearman)]
    [0.7364, 0.2, 0.05, -0.5]
    """
    counted = measured if counted is None else counted.take(measured.sources, measured.targets)
    targets = [name for name in measured.targets if name in estimate.targets]
    sources = [name for name in measured.sources if name in estimate.sources]
    asked = f"score the estimate '{estimate.name}' against '{measured.name}'"
    if not targets or not sources:
        raise AllroundError(
            asked, "they have no target or no source in common", "give matrices of the same tasks, by the same names"
        )
    if any(k < 1 for k in ks):
        raise AllroundError(asked, f"regret is asked for {min(ks)} sources", "give 1 or more")
    guess, truth, worth = (one.take(sources, targets).gains for one in (estimate, measured, counted))
    rows = []
    for column in range(len(targets)):
        known = ~np.isnan(guess[:, column]) & ~np.isnan(truth[:, column]) & ~np.isnan(worth[:, column])
        g, t, w = (one[known, column] for one in (guess, truth, worth))
        rows.append(_score_one(g, t, w, ks, regret) if known.sum() > 1 else [np.nan] * (len(ks) + 3))
    table = np.array(rows).T
    return TransferScore(
        estimate.name,
        tuple(targets),
        table[0],
        {k: table[3 + place] for place, k in enumerate(ks)},
        table[1],
        table[2],
        estimate.seconds,
    )


def score_all(
    estimates: Sequence[TaskMatrix],
    measured: TaskMatrix,
    *,
    ks: Sequence[int] = (1, 3, 5),
    regret: Regret = "difference",
    counted: TaskMatrix | None = None,
) -> list[TransferScore]:
    """The scores of several estimates, and always those of `random` and `popularity` beside them.

    `random` is what a random order has on average, exactly. `popularity` ranks sources by what they did for the other
    targets.
    """
    both = [random_order(measured), popularity(measured)]
    given = {one.name for one in both}
    every = [*both, *(one for one in estimates if one.name not in given)]
    return [score(one, measured, ks=ks, regret=regret, counted=counted) for one in every]


def random_order(measured: TaskMatrix) -> TaskMatrix:
    """The estimate that knows nothing: all sources are equal."""
    return TaskMatrix("random", measured.sources, measured.targets, np.where(np.isnan(measured.values), np.nan, 0.0))


def popularity(measured: TaskMatrix, name: str = "popularity") -> TaskMatrix:
    """The mean of what a source did for the other targets, for each target; nothing of the target itself is looked at.

    >>> truth = TaskMatrix("gain", ("a", "b"), ("t", "u"), [[1.0, 3.0], [0.0, 2.0]])
    >>> popularity(truth).values.tolist()
    [[3.0, 1.0], [2.0, 0.0]]
    """
    means = np.full(measured.values.shape, np.nan)
    for column in range(len(measured.targets)):
        others = np.delete(measured.gains, column, 1)
        known = ~np.isnan(others)
        counts = known.sum(1)
        sums = np.where(known, others, 0).sum(1)
        means[:, column] = np.divide(sums, counts, out=means[:, column], where=counts > 0)
    return TaskMatrix(name, measured.sources, measured.targets, means)


def compare(
    one: TransferScore, other: TransferScore, metric: str, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> ScoreDifference:
    """How much better or worse `one` is than `other` in a metric: the difference of means, by a paired bootstrap over
    the targets that both have. Errors: no target in common."""
    shared = [name for name in one.targets if name in other.targets]
    pairs = [s.values(metric)[[s.targets.index(name) for name in shared]] for s in (one, other)]
    gaps = pairs[0] - pairs[1] if shared else np.empty(0)
    gaps = gaps[~np.isnan(gaps)]
    if not len(gaps):
        raise AllroundError(
            f"compare '{one.name}' with '{other.name}' by {metric}",
            "there is no target that both were scored on",
            "score both against the same matrix",
        )
    drawn = np.random.default_rng(seed).integers(0, len(gaps), (draws, len(gaps)))
    low, high = np.quantile(gaps[drawn].mean(1), ((1 - level) / 2, (1 + level) / 2))
    return ScoreDifference(metric, float(gaps.mean()), float(low), float(high))


def leave_one_out(predict: Callable[[TaskMatrix, str], TaskMatrix], measured: TaskMatrix, name: str) -> TaskMatrix:
    """What a rule predicts of each target when all transfer to that target is hidden from it.

    predict: from what is left of `measured` and the name of the target to a matrix that holds this target.
    """
    values = np.full(measured.values.shape, np.nan)
    for column, target in enumerate(measured.targets):
        made = predict(measured.without(target), target)
        values[:, column] = made.take(measured.sources, [target]).gains[:, 0]
    return TaskMatrix(name, measured.sources, measured.targets, values)


def _score_one(guess: Values, truth: Values, worth: Values, ks: Sequence[int], how: Regret) -> list[float]:
    """NDCG, Spearman, the gap, and the regret for each k, of one target."""
    count = len(guess)
    places = ranks(guess), ranks(truth)
    gains = 2.0 ** places[1] - 1
    discounts = 1 / np.log2(np.arange(count) + 2)
    ndcg = float(gains @ _shared(guess, discounts) / (gains @ _shared(truth, discounts)))
    one, other = (place - (count + 1) / 2 for place in places)
    spread = np.sqrt((one @ one) * (other @ other))
    spearman = float(one @ other / spread) if spread else 0.0
    regrets = []
    for k in ks:
        first = np.array([1 / min(k, count)] * min(k, count) + [0.0] * (count - k))
        best, chosen = float(worth @ _shared(truth, first)), float(worth @ _shared(guess, first))
        scale = {"difference": 1.0, "gain": 1 + best, "score": abs(best)}[how]
        regrets.append((best - chosen) / scale)
    gap = float(worth.max() - worth @ _shared(guess, np.eye(1, count)[0]))
    return [ndcg, spearman, gap, *regrets]


def ranks(values: Values) -> Values:
    """The rank of each of a few values, from 1; equal values share the mean of theirs, as in scipy's `rankdata`.

    >>> ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    found: Values = (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) + 1) / 2
    return found


def _shared(order: Values, weights: Values) -> Values:
    """The weight of each entry's place when entries are sorted from the largest; equal entries share theirs.

    >>> _shared(np.array([1.0, 2.0, 2.0]), np.array([1.0, 0.5, 0.0])).tolist()
    [0.0, 0.75, 0.75]
    """
    places = np.argsort(-order, kind="stable")
    _, groups = np.unique(-order[places], return_inverse=True)
    means = np.bincount(groups, weights) / np.bincount(groups)
    found = np.empty(len(order))
    found[places] = means[groups]
    return found


def _mean(values: Values) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
