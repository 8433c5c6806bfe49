"""What came of adding a task to a finished model: the ways that were tried, the one that was chosen, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from allround.evaluation.gate import GatedTask
from allround.evaluation.intervals import Bootstrap, Interval, retention, verdict
from allround.evaluation.predictions import Predictions
from allround.tasks.metric import better


@dataclass(frozen=True)
class TriedWay:
    """A way to add the task, as it did on validation rows.

    score: of the new task. retention: of the specialist's score; None where that is not above 0. gates: of the old
    tasks; none where their answers are as before, to the bit (`exact`), or where no rows of them are at hand.
    unjudged: old tasks that the way may have changed, and of which no rows are at hand. seconds: of making it.
    stored: numbers that the model holds more than before.
    """

    name: str
    title: str
    exact: bool
    score: float
    retention: float | None
    gates: Sequence[GatedTask]
    unjudged: Sequence[str]
    seconds: float
    stored: int
    predictions: Predictions

    @property
    def passed(self) -> bool:
        """Whether every old task is known to keep what it must."""
        return self.exact or (not self.unjudged and all(one.passed for one in self.gates))

    @property
    def flips(self) -> tuple[int, int, int] | None:
        """Over all old tasks with right and wrong answers: rows, right ones that became wrong, and wrong ones that
        became right; None where there are none."""
        known = [one.flips for one in self.gates if one.flips is not None]
        if not known:
            return None
        return sum(f.rows for f in known), sum(f.lost for f in known), sum(f.gained for f in known)

    def reaches(self, share: float) -> bool:
        """Whether the new task is as good as it must be, beside its specialist."""
        return self.retention is None or self.retention >= share


@dataclass(frozen=True)
class Tested:
    """What the model that was written does on test rows. before: of the old tasks, None where their rows are not at
    hand. specialist: of the new task, as is difference, how far the model lies above it."""

    score: Interval
    specialist: Interval
    difference: Interval
    retention: Interval | None
    rows: int
    old: Sequence[GatedTask]


@dataclass(frozen=True)
class Addition:
    """A task that was added, or not: `chosen` is None where no way passed.

    forced: the way that was written all the same. old_rows: where the rows of the old tasks came from, in words.
    floor: the largest share of a task's validation rows that two seeds of one recipe answer differently for the worse;
    None where it was not measured. specialist: its validation score.
    """

    task: str
    metric: str
    model: str
    old: Sequence[str]
    keep: float
    max_flips: float
    reach: float
    specialist: float
    specialist_seconds: float
    tried: Sequence[TriedWay]
    left_out: Mapping[str, str]
    chosen: str | None
    forced: str | None
    old_rows: str
    floor: float | None
    tested: Tested | None
    seconds: float
    facts: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)

    @property
    def written(self) -> TriedWay | None:
        """The way by which the model was written."""
        name = self.chosen or self.forced
        return next((one for one in self.tried if one.name == name), None)

    @property
    def passed(self) -> bool:
        return self.chosen is not None


def relative(score: float, specialist: float, metric: str) -> float | None:
    """The share of a specialist's score."""
    return retention(score, specialist, better(metric))


def choose(tried: Sequence[TriedWay], reach: float, *, seed: int = 0) -> str | None:
    """The way to take, by validation rows: of those that pass the gate, and reach the specialist if any does, the
    first one than which the best is not better (paired bootstrap, 95%). None: no way passes.

    tried: the cheapest first.
    """
    passing = [one for one in tried if one.passed]
    fine = [one for one in passing if one.reaches(reach)] or passing
    if not fine:
        return None
    sign = 1 if better(fine[0].predictions.definition.metric) == "higher" else -1
    best = max(fine, key=lambda one: sign * one.score)
    for one in fine:
        made = {(name, "new"): way.predictions for name, way in (("best", best), ("one", one))}
        if one is best or verdict(Bootstrap.make(made, seed=seed).task_difference("best", "one", "new")) != "better":
            return one.name
    return best.name
