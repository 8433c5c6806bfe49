"""What is known of how tasks relate, and what follows: effects, groups, and how good each estimate was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from allround.core import registry
from allround.transfer.blending import blend
from allround.transfer.deciding import cluster_count, cluster_tasks, likeness, linkage_of
from allround.transfer.matrix import TaskMatrix, Values
from allround.transfer.score import ScoreDifference, TransferScore, compare, leave_one_out, score_all

#: How sure a finding is, for all pairs or all estimates together.
LEVEL = 0.95
#: The name of what all estimates together expect.
TOGETHER = "rank_sum"


@dataclass(frozen=True)
class Effect:
    """What a source does to a target, as it was measured. verdict: whether the gain lies on one side of 0, at a level
    that holds for all measured pairs together."""

    source: str
    target: str
    gain: float
    error: float
    verdict: Literal["better", "worse", "none"]


@dataclass(frozen=True)
class Judged:
    """How good an estimate was.

    hits: targets whose first source was the best one measured, out of `targets`; share: the 95 % interval of their
    share. sure: whether it is better than a random order, at a level that holds for all estimates together; never with
    so few targets that chance alone may put all of them on one side. beside_random: the difference of its NDCG from
    that of a random order; beside_popularity: from that of ranking sources by what they did for other targets; None for
    these two themselves, and where both were scored on no target in common.
    """

    score: TransferScore
    hits: int
    targets: int
    share: tuple[float, float]
    sure: bool
    beside_random: ScoreDifference | None
    beside_popularity: ScoreDifference | None


@dataclass(frozen=True)
class Findings:
    """What estimators expect of each pair of tasks, and what short trainings gave, where they were made.

    estimates: all with the same sources and targets. left_out: estimators that said nothing, and why. measured: gains
    on validation rows. metrics: of each task. facts: what was measured on what, for people. notes: what a reader has to
    know.
    """

    title: str
    estimates: tuple[TaskMatrix, ...]
    left_out: Mapping[str, str]
    measured: TaskMatrix | None
    metrics: Mapping[str, str]
    facts: Mapping[str, str]
    measure: str | None = None
    notes: Sequence[str] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.together.targets

    @cached_property
    def together(self) -> TaskMatrix:
        """What all estimates together expect: the mean rank of each source."""
        return blend(TOGETHER, self.estimates)

    @cached_property
    def blends(self) -> tuple[TaskMatrix, ...]:
        """What blends expect of each target: those that learn from measured transfer see that to other targets only."""
        found = [self.together]
        if self.measured is None:
            return tuple(found)
        truth = self.measured.take(self.tasks, self.tasks)
        for name in registry.names("blend"):
            if "measured" in registry.find("blend", name).needs and len(self.tasks) > 2:
                found.append(leave_one_out(self._blend_by(name), truth, name))
        return tuple(found)

    def _blend_by(self, name: str) -> Callable[[TaskMatrix, str], TaskMatrix]:
        return lambda seen, _: blend(name, self.estimates, seen)

    @cached_property
    def judged(self) -> list[Judged]:
        """How good each estimate was on the targets whose sources gain differently, the best NDCG first; nothing where
        nothing was measured."""
        if self.measured is None or not (truth := _ordered(self.measured)).targets:
            return []
        scores = score_all([*self.estimates, *self.blends], truth, ks=(1, 3))
        known = {one.name: one for one in scores}
        level = 1 - (1 - LEVEL) / max(1, len(scores) - 1)
        found = []
        for one in scores:
            gaps = one.values("gap")
            gaps = gaps[~np.isnan(gaps)]
            hits = int((gaps <= 1e-12).sum())
            beside = [
                None if one.name in ("random", other) else _compare(one, known[other], level)
                for other in ("random", "popularity")
            ]
            if len(gaps) or one.name == "popularity":
                sure = beside[0] is not None and beside[0].low > 0 and 2.0 ** (1 - len(gaps)) <= 1 - level
                found.append(Judged(one, hits, len(gaps), _share(hits, len(gaps)), sure, *beside))
        return sorted(found, key=lambda one: -np.nan_to_num(one.score.mean("ndcg"), nan=-1))

    @cached_property
    def effects(self) -> list[Effect]:
        """What each measured pair gains, the largest gain first."""
        if self.measured is None or self.measured.errors is None:
            return []
        from scipy.stats import norm

        known = np.argwhere(~np.isnan(self.measured.values))
        sure = float(norm.ppf(1 - (1 - LEVEL) / 2 / max(1, len(known))))
        found = []
        for row, column in known.tolist():
            gain, error = float(self.measured.gains[row, column]), float(self.measured.errors[row, column])
            said: Literal["better", "worse", "none"] = "none"
            if abs(gain) > sure * error and gain != 0:
                said = "better" if gain > 0 else "worse"
            found.append(Effect(self.measured.sources[row], self.measured.targets[column], gain, error, said))
        return sorted(found, key=lambda one: -one.gain)

    @cached_property
    def alike(self) -> Values:
        """(n, n): how alike tasks are: by what was measured of all pairs, otherwise by all estimates together."""
        whole = self.measured is not None and len(self.effects) == len(self.tasks) * (len(self.tasks) - 1)
        return likeness(self.measured.take(self.tasks, self.tasks) if whole and self.measured else self.together)

    @cached_property
    def tree(self) -> Values:
        """The tree of average linkage over the tasks: (n - 1, 4), as SciPy writes it."""
        return linkage_of(self.alike)

    @cached_property
    def order(self) -> list[str]:
        """The tasks, so that like ones stand together."""
        from scipy.cluster.hierarchy import leaves_list

        return [self.tasks[leaf] for leaf in leaves_list(self.tree)] if len(self.tasks) > 1 else list(self.tasks)

    @cached_property
    def clusters(self) -> list[list[str]]:
        """Groups of like tasks: the tree, cut where its joints lie furthest apart."""
        labels = cluster_tasks(self.alike, cluster_count(self.alike))
        return [[t for t, one in zip(self.tasks, labels, strict=True) if one == label] for label in sorted(set(labels))]

    def best(self, target: str, count: int | None = 3) -> list[str]:
        """The sources that should help a target most, the best first: as measured, or as all estimates expect it."""
        known = [] if self.measured is None else self.measured.best(target, count)
        return known or self.together.best(target, count)


def _ordered(measured: TaskMatrix) -> TaskMatrix:
    """What was measured of targets whose sources gain differently."""
    columns = {target: measured.gains[:, column] for column, target in enumerate(measured.targets)}
    return measured.take(
        targets=[name for name, found in columns.items() if len(np.unique(found[~np.isnan(found)])) > 1]
    )


def _compare(one: TransferScore, other: TransferScore, level: float) -> ScoreDifference | None:
    """The difference of NDCG; None where no target has both."""
    first, second = (
        {target for target, value in zip(found.targets, found.ndcg, strict=True) if not np.isnan(value)}
        for found in (one, other)
    )
    return compare(one, other, "ndcg", level=level) if first & second else None


def _share(hits: int, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper and Pearson, 1934)."""
    from scipy.stats import binomtest

    if not count:
        return 0.0, 1.0
    found = binomtest(hits, count).proportion_ci(LEVEL)
    return float(found.low), float(found.high)
