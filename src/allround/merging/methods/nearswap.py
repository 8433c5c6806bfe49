"""NearSwap: take the model's value where it is near to the base's, and go towards it elsewhere."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method


@method(
    source="alchemonaut, QuartetAnemoi-70B-t0.0001 (Hugging Face), 2024; mergekit 0.1.5, nearswap",
    block="element",
    models=(1, 1),
)
def nearswap(base: Tensor, deltas: Tensor, *, t: Annotated[float, Search(1e-4, 1e-3, 1e-2)] = 1e-4) -> Tensor:
    """Merge one model into the base.

    Shapes: base (*s), deltas (1, *s) -> merged (*s)
    Formula: base + d, with d cut off at t and -t. This is what interpolating with the weight t / |d|, at most 1, comes
    to.
    Differs: from mergekit in rounding alone. As there, changes below 1e-6 count as 1e-6, so that a `t` below that takes
    them in part.

    >>> import torch
    >>> nearswap(torch.zeros(3), torch.tensor([[0.25, -0.5, 2.0]]), t=0.5)
    tensor([ 0.2500, -0.5000,  0.5000])
    """
    if t < 0:
        raise AllroundError(f"merge with t {t}", "it is a distance, and less than zero", "give one such as 1e-4")
    change = deltas[0] if t >= 1e-6 else deltas[0] * (t / 1e-6)
    return base + change.clamp(-t, t)
