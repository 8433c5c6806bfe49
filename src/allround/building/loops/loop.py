"""What a loop is: which copies are tuned in each round, on what, and how they become one model again."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from allround.building.search import SettingSearch
from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.seeds import seed_of


@dataclass(frozen=True)
class Branch:
    """A copy of the present model that a round tunes.

    tasks: what it is tuned on; each task is drawn as often as its rows times its weight say.
    """

    name: str
    tasks: Mapping[str, float]


@dataclass(frozen=True)
class Loop:
    """Rounds of: tune each branch from the present model, merge the branches, go on from the merged model.

    rounds: the budget of training is shared among them; 0 leaves the base. branches: the copies of a round. take: so
    many of them are drawn for each round; None: all. method, values: how branches are merged, as changes of the present
    model. search: the number of branches -> settings of the method to try on validation. judged: the tasks on whose
    validation scores settings and the round that is kept are chosen. refit: heads are fitted anew on each merged
    encoder, frozen; else those that the branches hold go on. unseen: tasks that no branch is tuned on; their heads are
    always fitted anew.
    """

    rounds: int
    branches: tuple[Branch, ...]
    judged: tuple[str, ...]
    method: str = "average"
    values: Mapping[str, object] = field(default_factory=dict)
    search: Callable[[int], SettingSearch] | None = None
    take: int | None = None
    refit: bool = False
    unseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        registry.find("merge", self.method).resolve(self.values)
        if self.rounds < 0:
            raise AllroundError(f"tune and merge in {self.rounds} rounds", "rounds must be 0 or more",
                                "give 0 (the base with its heads) or more")  # fmt: skip
        if self.take is not None and not 1 <= self.take <= len(self.branches):
            raise AllroundError(
                f"tune {self.take} copies in each round",
                f"the loop has {len(self.branches)}: {', '.join(b.name for b in self.branches)}",
                f"give 1 to {len(self.branches)}",
            )

    def drawn(self, number: int, seed: int) -> list[Branch]:
        """The branches of a round, in their order.

        >>> loop = Loop(1, tuple(Branch(n, {n: 1.0}) for n in "abc"), ("a",), take=2)
        >>> [len(loop.drawn(n, seed=0)) for n in (1, 2)]
        [2, 2]
        """
        chosen = range(len(self.branches))
        if self.take is not None:
            draw = random.Random(seed_of(seed, "take", number))
            chosen = sorted(draw.sample(chosen, self.take))  # type: ignore[assignment]
        return [self.branches[index] for index in chosen]


def known(names: Sequence[str], tasks: Sequence[str], what: str) -> tuple[str, ...]:
    """The names, or an error for the first that is not the name of a task.

    >>> known(["a"], ["a", "b"], "the target")
    ('a',)
    """
    for name in names:
        if name not in tasks:
            raise AllroundError(f"use '{name}' as {what}", "the suite has no such task", suggestion(name, tasks))
    return tuple(names)


def at_least(count: int, tasks: Sequence[str], asked: str, do: str) -> None:
    """An error when there are fewer tasks."""
    if len(tasks) < count:
        raise AllroundError(
            asked, f"it needs at least {count} tasks, and has {len(tasks)}: {', '.join(tasks) or 'none'}", do
        )
