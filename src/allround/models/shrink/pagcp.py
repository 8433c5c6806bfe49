"""PAGCP: from layer to layer, as many units or channels are removed as the worst task's loss allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.shrinking.anatomy import Anatomy, Kept
from allround.models.shrinking.choosing import growth, too_small
from allround.models.shrinking.importance import highest
from allround.models.shrinking.study import Study

#: Shares of a layer that are tried, and halvings of the interval in which the threshold lies.
RATIOS, HALVINGS = tuple(number / 20 for number in range(1, 20)), 12
#: The largest threshold of a first layer: its loss may grow as it likes.
MOST = 1e9


@method(
    source="Ye et al., TPAMI 2023, arXiv:2303.11923; prune/sensitivity.py of HankYe/PAGCP",
    paper="Performance-aware Approximation of Global Channel Pruning for Multitask CNNs",
    needs=("units",),
)
def pagcp(study: Study, share: float, *, growing: float = 1.0) -> Kept:
    """Layers one after the other, from the one that saves most work on: the share of its parts with the least norm is
    raised until a task's loss, relative to what it was, grows by more than the layer's threshold.

    Formula: the threshold of layer i is r s^i, and r is the least by which the share is met; growing: s
    Differs: the authors give r, and how much the loss may grow over all layers, the product of (1 + r s^i), from which
    they solve s; they prune the best of the layers alone (top k), and train in between. Here the share of the work is
    given, all layers are pruned, and training follows. Groups that must be alike cannot be pruned so.
    """
    anatomy = study.anatomy
    if any(one.together for one in anatomy.groups):
        raise AllroundError("shrink by pagcp", "its layers must keep equally many units each, by its configuration",
                            "use --ways units, both or layers")  # fmt: skip
    if share >= 1:
        return {}
    study, low, high = replace(study, losses=remembered(study.losses)), 0.0, MOST
    found = within(study, high, growing)
    if anatomy.share(found) > share:
        raise too_small(share, "pagcp")
    for _ in range(HALVINGS):
        # Thresholds differ by factors rather than by steps.
        middle = math.expm1((math.log1p(low) + math.log1p(high)) / 2)
        tried = within(study, middle, growing)
        if anatomy.share(tried) <= share:
            high, found = middle, tried
        else:
            low = middle
    return found


def remembered(losses: Callable[[Kept], Tensor]) -> Callable[[Kept], Tensor]:
    """The same losses, each of which is measured once."""
    known: dict[str, Tensor] = {}

    def found(kept: Kept) -> Tensor:
        key = str(sorted(kept.items()))
        if key not in known:
            known[key] = losses(kept)
        return known[key]

    return found


def within(study: Study, threshold: float, growing: float) -> dict[str, tuple[int, ...]]:
    """What is kept where the first layer's loss may grow by a threshold, and that of each further one by `growing`
    times as much."""
    kept: dict[str, tuple[int, ...]] = {}
    base = study.losses({})
    for name in order(study.anatomy, growing):
        count, last = study.norms[name].numel(), base
        best: tuple[int, ...] | None = None
        for ratio in RATIOS:
            parts = highest(study.norms[name], max(1, count - int(ratio * count)))
            if len(parts) == count:
                continue
            losses = study.losses({**kept, name: parts})
            if float(growth(losses, base).max()) > threshold:
                break
            best, last = parts, losses
        if best is not None:
            kept[name] = best
            threshold *= growing
            base = torch.maximum(base, last)
    return kept


def order(anatomy: Anatomy, growing: float) -> Sequence[str]:
    """The layers by the work that is saved without three tenths of their parts: the most first, or the least where
    thresholds grow."""
    names = {one.name: one.count for one in anatomy.units()}
    saved: Mapping[str, float] = {
        name: 1 - anatomy.share({name: tuple(range(max(1, count - int(0.3 * count))))}) for name, count in names.items()
    }
    return sorted(saved, key=lambda name: saved[name], reverse=growing <= 1)
