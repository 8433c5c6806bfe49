"""What all systems are compared with: the specialists, or on each task the better of specialist and base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from allround.building.candidates import ModelCandidate
from allround.building.stages.choice import Scores
from allround.building.stages.data import Data
from allround.building.workshop import Workshop
from allround.core.words import listed
from allround.evaluation.scoreboard.simple import REFERENCE
from allround.tasks.metric import better


@dataclass(frozen=True)
class Reference:
    """The system that retention is measured against.

    name: what it is called. of: for each task, the candidate that answers it. own: the system, where it is not one of
    the candidates; it predicts as those do that it consists of.
    """

    name: str
    of: Mapping[str, str]
    own: ModelCandidate | None = None

    @property
    def candidates(self) -> list[ModelCandidate]:
        """What it adds to the candidates."""
        return [] if self.own is None else [self.own]

    def scores(self, validation: Scores) -> dict[str, dict[str, float]]:
        """Its validation scores, where it is not one of the candidates."""
        return {} if self.own is None else {self.name: {task: validation[name][task] for task, name in self.of.items()
                                                           if task in validation[name]}}  # fmt: skip


def make_reference(
    shop: Workshop, sort: str, base: ModelCandidate, specialists: ModelCandidate, data: Data, validation: Scores,
    unseen: Iterable[str] = (),
) -> Reference:  # fmt: skip
    """The reference of a build.

    sort: `specialists`; or `best`, which on each task is the base where it scores better on validation than the
    specialist. A system of its own is made only where it differs from both. unseen: tasks without a specialist, on
    which it is the base.
    """
    without = dict.fromkeys(unseen, base.name)
    weak = [
        task
        for task, metric in data.metrics.items()
        if sort == "best" and _above(validation[base.name][task], validation[specialists.name][task], metric)
    ]
    if not weak:
        return Reference(specialists.name, {**dict.fromkeys(data.tasks, specialists.name), **without})
    shop.say(f"the base is better than the specialist on {listed(weak)} on validation, and is the reference there")
    if len(weak) == len(data.tasks):
        return Reference(base.name, {**dict.fromkeys(data.tasks, base.name), **without})
    of = {task: base if task in (*weak, *without) else specialists for task in (*data.tasks, *without)}
    own = replace(
        specialists,
        name=REFERENCE,
        role=REFERENCE,
        title="the better of specialist and base on each task, chosen on validation rows: the base on "
        f"{listed(weak)}, specialists elsewhere",
        encoders={task: one.encoders[task] for task, one in of.items()},
        heads={task: one.heads[task] for task, one in of.items()},
        keys={task: one.keys[task] for task, one in of.items()},
    )
    return Reference(REFERENCE, {task: one.name for task, one in of.items()}, own)


def _above(one: float, other: float, metric: str) -> bool:
    return one > other if better(metric) == "higher" else one < other
