"""What short trainings measure: which ones to make, and what a task gains by another one, from their scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, comb

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.transfer.grouping import member_parts
from allround.transfer.matrix import Values

#: Groups that are drawn to pick each further one from.
DRAWN = 100


@dataclass(frozen=True)
class Run:
    """A training that is measured: the tasks that it trains on together, and the task whose specialist it starts from.

    start: None for the base.
    """

    tasks: tuple[str, ...]
    start: str | None = None

    @property
    def name(self) -> str:
        """What its piece is called."""
        return "run-" + "+".join(self.tasks) + ("" if self.start is None else f"-after-{self.start}")


@dataclass(frozen=True, eq=False)
class Gain:
    """What a task gains by a source: a sum over runs of the task's score times a factor, on the same validation rows.

    left: where the factors are those of a fitted line, (R, R): from the scores of the runs to what it leaves of them.
    """

    source: str
    task: str
    factors: Mapping[Run, float]
    left: Values | None = None


def spread(left: Values, scores: Values) -> float:
    """How far scores (R,) scatter around a fitted line, as a standard deviation. left: see `Gain`.

    >>> round(spread(np.eye(4) - 0.25, np.array([1.0, 2.0, 3.0, 4.0])), 3)  # around their mean
    1.291
    """
    return float(np.linalg.norm(left @ scores) / np.sqrt(max(np.trace(left), 1e-9)))


class Measure(ABC):
    """A way to measure what tasks gain by each other. least: the fewest tasks it takes."""

    least = 2

    @abstractmethod
    def first(self, tasks: Sequence[str]) -> list[Run]:
        """The runs that come before all others."""

    @abstractmethod
    def further(self, tasks: Sequence[str], seed: int) -> list[Run]:
        """The other runs. Each says more."""

    @abstractmethod
    def gains(self, tasks: Sequence[str], made: Iterable[Run]) -> list[Gain]:
        """All gains that the runs which were made give."""


class Pairs(Measure):
    """Tuning on one task before another, against the other alone."""

    def first(self, tasks: Sequence[str]) -> list[Run]:
        return alone(tasks)

    def further(self, tasks: Sequence[str], seed: int) -> list[Run]:
        return [Run((t,), s) for t in tasks for s in tasks if s != t]

    def gains(self, tasks: Sequence[str], made: Iterable[Run]) -> list[Gain]:
        known = set(made)
        return [Gain(s, t, {Run((t,), s): 1.0, Run((t,)): -1.0}) for t in tasks for s in tasks
                if s != t and {Run((t,), s), Run((t,))} <= known]  # fmt: skip


class Joint(Measure):
    """Training two tasks together, against each alone."""

    def first(self, tasks: Sequence[str]) -> list[Run]:
        return alone(tasks)

    def further(self, tasks: Sequence[str], seed: int) -> list[Run]:
        return [Run(pair) for pair in combinations(tasks, 2)]

    def gains(self, tasks: Sequence[str], made: Iterable[Run]) -> list[Gain]:
        known = set(made)
        return [Gain(s, t, {Run(pair): 1.0, Run((t,)): -1.0}) for pair in combinations(tasks, 2)
                for s, t in (pair, pair[::-1]) if {Run(pair), Run((t,))} <= known]  # fmt: skip


class LeaveOneOut(Measure):
    """Training all tasks together, against all but one."""

    least = 3

    def first(self, tasks: Sequence[str]) -> list[Run]:
        return [Run(tuple(tasks))]

    def further(self, tasks: Sequence[str], seed: int) -> list[Run]:
        return [self.without(tasks, s) for s in tasks]

    def gains(self, tasks: Sequence[str], made: Iterable[Run]) -> list[Gain]:
        known, whole = set(made), Run(tuple(tasks))
        return [Gain(s, t, {whole: 1.0, self.without(tasks, s): -1.0}) for s in tasks for t in tasks
                if s != t and {whole, self.without(tasks, s)} <= known]  # fmt: skip

    @staticmethod
    def without(tasks: Sequence[str], left_out: str) -> Run:
        return Run(tuple(task for task in tasks if task != left_out))


class Subsets(Measure):
    """Training on groups of half of the tasks, drawn at random: each member adds its part to what a task does there.

    The parts are fitted by ridge regression, as surrogate models of groups are (Li et al., TMLR 2023,
    arXiv:2303.14582). Groups are drawn so that all pairs of tasks are together about as often; each task is in about
    twice as many groups as there are tasks, where there are so many groups.
    """

    least = 3
    #: Added to the diagonal in the fit.
    penalty = 0.1

    def first(self, tasks: Sequence[str]) -> list[Run]:
        return alone(tasks)

    def further(self, tasks: Sequence[str], seed: int) -> list[Run]:
        count, size = len(tasks), ceil(len(tasks) / 2)
        rng, together = np.random.default_rng(seed), np.zeros((count, count))
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < min(ceil(2 * count**2 / size), comb(count, size)):
            some = {tuple(sorted(rng.permutation(count)[:size].tolist())) for _ in range(DRAWN)}
            if fresh := sorted(some - drawn.keys()):
                best = min(fresh, key=lambda group: together[np.ix_(group, group)].sum())
                together[np.ix_(best, best)] += 1
                drawn[best] = None
        return [Run(tuple(tasks[place] for place in group)) for group in drawn]

    def gains(self, tasks: Sequence[str], made: Iterable[Run]) -> list[Gain]:
        found = []
        known = [run for run in made if run.start is None]
        for task in tasks:
            runs = [run for run in known if task in run.tasks]
            if len(runs) < 2:
                continue
            others = [other for other in tasks if other != task]
            members = np.array([[other in run.tasks for other in others] for run in runs])
            parts, left = member_parts(members, self.penalty)
            found += [Gain(other, task, dict(zip(runs, parts[place].tolist(), strict=True)), left)
                      for place, other in enumerate(others) if 0 < members[:, place].sum() < len(runs)]  # fmt: skip
        return found


def alone(tasks: Sequence[str]) -> list[Run]:
    """A run for each task, on it alone."""
    return [Run((task,)) for task in tasks]


#: What can be measured, by the name that a user gives.
MEASURES: dict[str, Measure] = {
    "pairs": Pairs(),
    "joint": Joint(),
    "leave-one-out": LeaveOneOut(),
    "subsets": Subsets(),
}


def find_measure(name: str, tasks: Sequence[str]) -> Measure:
    """A measure by its name. Errors: no measure of that name; too few tasks."""
    if name not in MEASURES:
        raise AllroundError(f"measure '{name}'", "there is no such measure", suggestion(name, MEASURES))
    found = MEASURES[name]
    if len(tasks) < found.least:
        raise AllroundError(f"measure {name}", f"there are {len(tasks)} tasks, and it takes {found.least}",
                            f"give {found.least} tasks or more")  # fmt: skip
    return found
