"""What a change is multiplied by to make up for the entries that a mask took away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.merging.whole import Whole


def check_rescale(rescale: str, known: Sequence[str]) -> None:
    """An error unless `rescale` is one of those a method knows."""
    if rescale not in known:
        raise AllroundError(f"set rescale to {rescale!r}", "there is no such choice", suggestion(rescale, known))


def match_l1(kept: Tensor, deltas: Tensor, whole: Whole) -> Tensor:
    """Multiply what was kept of each change in place, so that its magnitudes add up to what they did before.

    Shapes: kept, deltas (k, *s) -> (k, *s). A change that is all but zero, before or after, is left as it is.
    """
    sums = [t.reshape(len(t), -1).abs().sum(1) for t in (deltas, kept)]
    before, after = whole.sum(torch.stack(sums))
    ratio = torch.where((before < 1e-7) | (after < 1e-7), 1.0, before / after.clamp_min(1e-7))
    return kept.mul_(ratio.to(kept.dtype).reshape(-1, *[1] * (kept.ndim - 1)))
