"""How often each feed is drawn, and which feeds share a step.

A feed is what is drawn together: one task, or the tasks that are labelled on one table. A *policy*
(`training/sample/*.py`) gives each feed its share of the batches; a *mix* says which batches make one step. The two are
independent: what papers call kinds of batches are settings of the mix.

- `mix="one"`: a step holds one batch of one feed. Task-pure batches: Uni-Perceiver v2 calls it unmixed sampling,
  12-in-1 goes round the tasks like this, and CoDiEmb does it with a number of rows for each kind (`batch_sizes`).
- `mix="all"`, or a number such as `mix="4"`: heterogeneous batches, as in Muppet: a step holds a batch of each of
  several feeds (a number keeps memory and time of a step in bounds).
- `mix="kind"`: a step holds feeds of one kind of task only, so that the losses that are summed are alike.

A *stretch* is a part of the training in which the shares stay the same. Within it each feed gets its share of the
batches to one batch (`counts_of`), in seeded order (`arrange`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError, suggestion


@dataclass(frozen=True)
class Mixture:
    """What a policy knows of the F feeds: their names, training rows and kinds of task."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


class Policy:
    """How often each feed is drawn. One object for one training; all that it remembers stands in `state`.

    A method file holds a class made of this, or a function `sizes -> shares` where nothing else matters. In
    `@method`, `feedback=True` says that the shares follow validation (a stretch ends at each evaluation),
    `needs=("features",)` that `select` is called before training, `restarts=True` that the rate's schedule begins
    anew at each of `changes`.

    changes: where the shares change by themselves, as shares of all batches, ascending, each above 0 and below 1.
    """

    changes: tuple[float, ...] = ()

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.state: dict[str, Tensor] = {}

    def shares(self, progress: float) -> list[float]:
        """Each feed's share of the batches in the stretch that begins at `progress`, the share of all batches that
        is done: (F,), each 0 or more, sum 1. One that begins at a change is asked for with that very number, or a
        larger one (`next_stretch`)."""
        raise NotImplementedError

    def evaluated(self, scores: Sequence[float], progress: float) -> None:
        """Take in an evaluation: for each feed its validation score relative to the one before the first step, which
        comes first, at progress 0. Higher is better."""

    def select(self, features: Sequence[Tensor]) -> list[list[int]] | None:
        """Which training rows of each feed are used at all, ascending, from the base's features (n_f, d) of all of
        them; None uses all. A feed without rows has a share of 0 from then on."""
        return None


class _Fixed(Policy):
    """Shares that follow the sizes alone and never change."""

    def __init__(self, mixture: Mixture, shares: list[float]) -> None:
        super().__init__(mixture)
        self._shares = shares

    def shares(self, progress: float) -> list[float]:
        return list(self._shares)


def make_policy(name: str, settings: Mapping[str, Any], mixture: Mixture) -> Policy:
    """The policy called `name`, for one training.

    >>> make_policy("proportional", {}, Mixture(("a", "b"), (300, 100), ("regression",) * 2)).shares(0.0)
    [0.75, 0.25]
    """
    entry = registry.find("sample", name)
    loaded, values = entry.load(), entry.resolve(settings)
    if isinstance(loaded, type):
        made: Policy = loaded(mixture, **values)
        return made
    return _Fixed(mixture, list(loaded(list(mixture.sizes), **values)))


def by_size(sizes: Sequence[int], power: float) -> list[float]:
    """Shares that follow a power of the number of rows: 0 is equal shares, 1 proportional, 0.5 the square root.

    >>> by_size([900, 100], 0.5)
    [0.75, 0.25]
    """
    if not 0 <= power < math.inf:
        raise AllroundError(
            f"sample by the number of rows to the power of {power}",
            "the power is no number of 0 or more",
            "give 0 for equal shares, 1 for shares proportional to the rows, or a number between",
        )
    parts = [(size / max(sizes)) ** power for size in sizes]
    return [part / sum(parts) for part in parts]


def numbers_of(names: Sequence[str], mixture: Mixture, what: str) -> list[int]:
    """The numbers of feeds given by name, in the order given.

    >>> numbers_of(["b", "a"], Mixture(("a", "b"), (1, 1), ("regression",) * 2), "order")
    [1, 0]
    """
    if not isinstance(names, list | tuple) or len({*map(str, names)}) < len(names):
        raise AllroundError(
            f"sample with {what} {names!r}", "that is no list of different names", "give each name once, in a list"
        )
    for name in names:
        if name not in mixture.names:
            raise AllroundError(
                f"sample with '{name}' in {what}",
                "nothing of that name is drawn",
                suggestion(str(name), mixture.names),
            )
    return [mixture.names.index(name) for name in names]


def next_stretch(policy: Policy, done: int, batches: int) -> tuple[int, list[float]]:
    """Of the stretch that begins when `done` of all `batches` are done: with which batch the policy's own changes end
    it, and its shares. A change comes at the nearest batch, and is in force from there, also where that lies a little
    before it.

    >>> made = make_policy("two_stage", {"first": 0.5}, Mixture(("a", "b"), (3, 1), ("regression",) * 2))
    >>> next_stretch(made, 0, 5), next_stretch(made, 2, 5)
    ((2, [1.0, 0.0]), (5, [0.75, 0.25]))
    """
    ends = [(round(change * batches), change) for change in policy.changes]
    reached = [change for end, change in ends if end <= done]
    return min([end for end, _ in ends if end > done] + [batches]), policy.shares(max([done / batches, *reached]))


def counts_of(shares: Sequence[float], batches: int) -> list[int]:
    """How many of the batches of a stretch each feed gets: its share, rounded so that all are given out (those with
    the largest remainder get one more).

    >>> counts_of([0.5, 0.3, 0.2], 7)
    [4, 2, 1]
    """
    counts = [math.floor(share * batches) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda f: (counts[f] - shares[f] * batches, f))
    for feed in by_remainder[: batches - sum(counts)]:
        counts[feed] += 1
    return counts


def arrange(counts: Sequence[int], groups: Sequence[Sequence[int]], most: int, seed: int) -> list[list[int]]:
    """The steps of a stretch in seeded order: the feeds of each, ascending and distinct, `counts[f]` batches of feed
    f in all. A step holds `most` feeds at most, of one group, and none is empty.

    A group takes as few steps as that allows. Steps are filled evenly and at random; a feed that is drawn more often
    than others is in more steps.

    >>> arrange([4, 2, 2], [[0, 1, 2]], 2, seed=0)
    [[0, 2], [0, 2], [0, 1], [0, 1]]
    """
    generator = torch.Generator().manual_seed(seed)
    if most == 1:
        steps = [[feed] for feed, count in enumerate(counts) for _ in range(count)]
    else:
        steps = [step for group in groups for step in _steps(counts, group, most, generator)]
    return [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]


def _steps(counts: Sequence[int], group: Sequence[int], most: int, generator: torch.Generator) -> list[list[int]]:
    """The steps of one group, in the order in which they are filled.

    While r steps are left and the load is even (all that is left, shared by r, rounded up), no feed has more than r
    batches left, and r steps can be filled: a feed with r batches left is in each of them.
    """
    left = {feed: counts[feed] for feed in group if counts[feed]}
    total = sum(left.values())
    steps = []
    for remaining in range(max(math.ceil(total / most), *left.values(), 0) if left else 0, 0, -1):
        width = math.ceil(total / remaining)
        # Drawing k of them without replacement, with chances as their batches left, is taking the k smallest of
        # exponential times with these rates (Efraimidis & Spirakis 2006).
        chances = torch.rand(len(left), generator=generator, dtype=torch.float64).tolist()
        times = {
            feed: -1.0 if count == remaining else -math.log1p(-chance) / count
            for (feed, count), chance in zip(left.items(), chances, strict=True)
        }
        step = sorted(sorted(left, key=lambda feed: (times[feed], feed))[:width])
        for feed in step:
            left[feed] -= 1
            if not left[feed]:
                del left[feed]
        total -= width
        steps.append(step)
    return steps
