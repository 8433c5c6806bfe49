"""Groups of tasks that are trained together: what was measured, what is expected of others, and a choice of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from allround.core import registry
from allround.core.errors import AllroundError
from allround.transfer.matrix import TaskMatrix, Values

#: Which tasks are in which group: (groups, tasks).
Members = npt.NDArray[np.bool_]
#: Tasks for which all groups are listed.
MOST_TASKS = 14


@dataclass(frozen=True, eq=False)
class GroupRuns:
    """How well each task did when it was trained with others.

    tasks: n names. members: (G, n), the tasks of each group. values: (G, n), NaN for tasks that are not in a group.

    >>> runs = GroupRuns.of({("a",): {"a": 0.5}, ("b",): {"b": 0.4}, ("a", "b"): {"a": 0.6, "b": 0.3}})
    >>> runs.pairs.tolist()
    [[0.5, 0.6], [0.3, 0.4]]
    """

    tasks: tuple[str, ...]
    members: Members
    values: Values
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        shape = (len(self.members), len(self.tasks))
        if self.members.shape != shape or self.values.shape != shape:
            raise AllroundError(
                "read how tasks did in groups",
                f"members and values have the shapes {self.members.shape} and {self.values.shape}, not {shape}",
                "give one row for each group and one column for each task",
            )
        if np.isnan(self.values[self.members]).any() or len(np.unique(self.members, axis=0)) < len(self.members):
            twice = len(np.unique(self.members, axis=0)) < len(self.members)
            raise AllroundError(
                "read how tasks did in groups",
                "a group stands there twice" if twice else "a task of a group has no value there",
                "give each group once, with a value for each of its tasks",
            )

    @classmethod
    def of(cls, runs: Mapping[tuple[str, ...], Mapping[str, float]], *, higher_is_better: bool = True) -> GroupRuns:
        """From group -> task -> value."""
        tasks = tuple(dict.fromkeys(task for group in runs for task in group))
        members = np.array([[task in group for task in tasks] for group in runs])
        values = np.array([[found.get(task, np.nan) for task in tasks] for found in runs.values()])
        return cls(tasks, members, np.where(members, values, np.nan), higher_is_better)

    @property
    def gains(self) -> Values:
        """The values, with their signs changed where lower is better."""
        return self.values if self.higher_is_better else -self.values

    @cached_property
    def pairs(self) -> Values:
        """(n, n): how well task i does with task j, and alone (i = j); NaN where it was not measured."""
        found = np.full((len(self.tasks), len(self.tasks)), np.nan)
        for members, values in zip(self.members, self.values, strict=True):
            inside = np.flatnonzero(members)
            if len(inside) <= 2:
                for i in inside:
                    found[i, inside[inside != i] if len(inside) == 2 else i] = values[i]
        return found

    def of_size(self, largest: int) -> GroupRuns:
        """Only the groups of at most so many tasks."""
        kept = self.members.sum(1) <= largest
        return GroupRuns(self.tasks, self.members[kept], self.values[kept], self.higher_is_better)

    def matrix(self) -> TaskMatrix:
        """What each task (source) does for another (target) when both are trained together: measured, as a gain over
        the target alone; higher is better."""
        gains = (self.pairs - self.pairs.diagonal()[:, None]).T * (1 if self.higher_is_better else -1)
        np.fill_diagonal(gains, np.nan)
        return TaskMatrix("pairs", self.tasks, self.tasks, gains, kind="measured")


def member_parts(members: Members, penalty: float) -> tuple[Values, Values]:
    """What each member adds to the values of groups, fitted by ridge regression; the constant is not penalised.

    members: (G, m). Returns the parts, (m, G), and what the fit leaves, (G, G); both are to be multiplied by the values
    of the groups, (G,).

    >>> parts, left = member_parts(np.array([[False, False], [True, False], [True, True]]), 0.0)
    >>> (parts @ [1.0, 3.0, 2.0]).round(6).tolist(), bool(np.allclose(left, 0))
    ([2.0, -1.0], True)
    """
    gaps = members - members.mean(0)
    parts = np.linalg.pinv(gaps.T @ gaps + penalty * np.eye(members.shape[1])) @ gaps.T
    return parts, np.eye(len(members)) - 1 / len(members) - gaps @ parts


@dataclass(frozen=True)
class Groups:
    """A choice of groups. groups: of tasks; a task may be in several. serves: the number of the group whose model
    answers each task. expected: the sum of the tasks' values, as they were predicted."""

    groups: tuple[tuple[str, ...], ...]
    serves: Mapping[str, int]
    expected: float


def all_groups(tasks: int) -> Members:
    """All groups of 1 to `tasks` tasks, small ones first. Errors: more tasks than `MOST_TASKS`.

    >>> all_groups(2).astype(int).tolist()
    [[1, 0], [0, 1], [1, 1]]
    """
    if tasks > MOST_TASKS:
        raise AllroundError(
            f"list all groups of {tasks} tasks",
            f"there are {2**tasks - 1:,} of them",
            f"group by clusters, which lists none, or leave tasks out until there are {MOST_TASKS}",
        )
    chosen = [group for size in range(1, tasks + 1) for group in combinations(range(tasks), size)]
    return np.array([[task in group for task in range(tasks)] for group in chosen])


def foretell(name: str, runs: GroupRuns, groups: Members, settings: Mapping[str, object] | None = None) -> GroupRuns:
    """What a method of the family `affinity` expects of groups. Those that were measured keep their values.

    groups: (G, n). Errors: a method that reads pairs, where a pair or a task alone was not measured.
    """
    entry = registry.find("affinity", name)
    largest = entry.facts["largest"]
    seen = runs if largest is None else runs.of_size(largest)
    if largest == 2 and np.isnan(seen.pairs).any():
        row, column = np.argwhere(np.isnan(seen.pairs))[0]
        missing = f"'{runs.tasks[row]}' with '{runs.tasks[column]}'" if row != column else f"'{runs.tasks[row]}' alone"
        raise AllroundError(
            f"foretell groups by '{name}'", f"{missing} was not measured", "measure all pairs and all tasks alone"
        )
    values = entry.load()(seen, groups, **entry.resolve(settings or {}))
    known = {members.tobytes(): row for row, members in enumerate(runs.members)}
    for row, members in enumerate(groups):
        if members.tobytes() in known:
            values[row] = runs.values[known[members.tobytes()]]
    return GroupRuns(runs.tasks, groups, np.where(groups, values, np.nan), runs.higher_is_better)


def choose_groups(name: str, runs: GroupRuns, count: int, settings: Mapping[str, object] | None = None) -> Groups:
    """At most `count` groups that together serve every task, by a method of the family `group`.

    runs: of all groups that may be chosen, measured or foretold. Errors: a count below 1.
    """
    if not count >= 1:
        raise AllroundError(f"put {len(runs.tasks)} tasks into {count} groups", "there is no such choice",
                            "give 1 or more")  # fmt: skip
    entry = registry.find("group", name)
    chosen = entry.load()(runs, count, **entry.resolve(settings or {}))
    return served(runs, chosen)


def served(runs: GroupRuns, chosen: Sequence[int]) -> Groups:
    """Groups by their numbers, each task served by the one that is best for it; groups that serve none are left out.

    Errors: a task that is in none of them.
    """
    gains = runs.gains[list(chosen)]
    if np.isnan(gains).all(0).any():
        lost = runs.tasks[int(np.flatnonzero(np.isnan(gains).all(0))[0])]
        raise AllroundError("choose groups of tasks", f"'{lost}' is in none of them", "allow more groups")
    best = np.nanargmax(gains, 0)
    used = sorted(set(best.tolist()))
    names = [tuple(t for t, inside in zip(runs.tasks, runs.members[chosen[g]], strict=True) if inside) for g in used]
    serves = {task: used.index(int(g)) for task, g in zip(runs.tasks, best, strict=True)}
    values = runs.values[[chosen[int(g)] for g in best], np.arange(len(runs.tasks))]
    return Groups(tuple(names), serves, float(values.sum()))
