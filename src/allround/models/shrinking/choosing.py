"""Choosing parts so that a network has at most a share of its work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.shrinking.anatomy import LAYERS, Anatomy, Group, Kept
from allround.models.shrinking.importance import Over, highest
from allround.models.shrinking.study import Study, Weights
from allround.models.shrinking.transformer import even

Which: TypeAlias = Literal["even", "first", "taylor", "greedy"]
#: Groups of at least four times so many parts keep a multiple of it: matrix products are made in such pieces.
PIECE = 16


class TooSmall(AllroundError):
    """A share of the work that cannot be met."""


def choose(
    study: Study, share: float, *, power: float, which: Which = "even", over: Over = "max", weights: Weights = None
) -> dict[str, tuple[int, ...]]:
    """Layers, then units within them.

    power: how much of the cut is made by layers: count * share^power of them are kept, rounded up where units are
    removed too, and fewer where the share could not be met otherwise; 0 keeps all, 1 removes layers alone.
    Errors: a share that cannot be met.
    """
    anatomy = study.anatomy
    if share >= 1:
        return {}
    layers = anatomy.layers
    if layers is None or power == 0:
        return fit_units(anatomy, share, {}, ranking(study, over, weights))
    wanted = layers.count * share**power
    most = math.floor(wanted + 1e-9) if power == 1 else math.ceil(wanted - 1e-9)
    for count in range(max(1, min(most, layers.count)), 0, -1):
        kept: dict[str, tuple[int, ...]] = {}
        if count < layers.count:
            kept[LAYERS] = tuple(layers_to_keep(study, count, which, over, weights))
        if anatomy.share(kept) <= share:
            return kept
        if power < 1 and _least(anatomy, kept) <= share:
            return fit_units(anatomy, share, kept, ranking(study, over, weights))
    raise too_small(share)


def layers_to_keep(study: Study, count: int, which: Which, over: Over, weights: Weights = None) -> Sequence[int]:
    """The layers that are kept. `even`: every so manieth; `first`; `taylor`: those that are worth most; `greedy`: again
    and again that layer is removed without which the worst task's loss, relative to what it was, is least,
    among tasks that count."""
    layers = study.anatomy.layers
    assert layers is not None
    if which == "even":
        return even(layers.count, count)
    if which == "first":
        return list(range(count))
    if which == "taylor":
        return highest(study.importance(LAYERS, over, weights), count)
    before, left = study.losses({}), list(range(layers.count))
    counts = slice(None) if weights is None else [n for n, one in enumerate(study.weighed(weights)) if one]
    while len(left) > count:
        tries = [[n for n in left if n != gone] for gone in left]
        worst = [_worst(study.losses({LAYERS: tuple(some)})[counts], before[counts]) for some in tries]
        left = tries[min(range(len(tries)), key=worst.__getitem__)]
    return left


def ranking(study: Study, over: Over, weights: Weights = None) -> Callable[[Group, int], tuple[int, ...]]:
    """What picks a number of parts of a group: those that are worth most to the tasks."""
    return lambda group, count: highest(study.importance(group.name, over, weights), count)


def fit_units(
    anatomy: Anatomy, share: float, kept: Kept, pick: Callable[[Group, int], tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The same share of the parts of each group, as many as the work allows; then, where groups need not be alike, one
    part more of each in turn, while the work allows it."""
    groups = anatomy.units(kept)
    if not groups:
        raise AllroundError(f"shrink to {share:.0%} by units", "the network has none that can be told apart",
                            "remove layers instead: --ways layers")  # fmt: skip

    def counts(steps: int, of: int) -> dict[str, int]:
        return {one.name: rounded(one.count * steps // of, one.count) for one in groups}

    def work(steps: int, of: int) -> float:
        return anatomy.share({**kept, **{n: tuple(range(c)) for n, c in counts(steps, of).items()}})

    of = max(one.count for one in groups)
    low, high = 1, of
    if work(low, of) > share:
        raise too_small(share)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if work(middle, of) <= share else (low, middle - 1)
    chosen = counts(low, of)
    free = [one for one in groups if one.together is None]
    while free:
        for one in list(free):
            more = {**chosen, one.name: chosen[one.name] + 1}
            fits = anatomy.share({**kept, **{n: tuple(range(c)) for n, c in more.items()}}) <= share
            if fits and more[one.name] <= one.count:
                chosen = more
            else:
                free.remove(one)
    return {**kept, **{one.name: pick(one, chosen[one.name]) for one in groups}}


def rounded(count: int, of: int) -> int:
    """How many of so many parts are kept, at least one: many of them in pieces, where that leaves any.

    >>> rounded(100, 128), rounded(3, 8), rounded(0, 8)
    (96, 3, 1)
    """
    whole = count // PIECE * PIECE if of >= 4 * PIECE else count
    return max(1, whole or count)


def growth(losses: Tensor, before: Tensor) -> Tensor:
    """How much the loss of each task grew, relative to what it was.

    >>> import torch
    >>> growth(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0])).tolist()
    [0.5, 0.0]
    """
    return (losses - before) / before.abs().clamp_min(1e-12)


def _least(anatomy: Anatomy, kept: Kept) -> float:
    return anatomy.share({**kept, **{one.name: (0,) for one in anatomy.units(kept)}})


def _worst(losses: Tensor, before: Tensor) -> float:
    """The largest growth of a task's loss, relative to what it was."""
    return float(growth(losses, before).max())


def too_small(share: float, way: str = "") -> TooSmall:
    """The error for a share that a way cannot meet."""
    by = f" by {way}" if way else ""
    return TooSmall(f"shrink to {share:.1%} of the work{by}", "what has to stay has more", "ask for a larger share")
