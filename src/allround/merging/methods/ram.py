"""RAM: average what several models changed, and keep whole what only one of them did."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.angles import mix
from allround.merging.whole import WHOLE, Whole


@method(
    source="Yuan et al., Behavior Knowledge Merge in Reinforced Agentic Models, 2026, arXiv:2601.13572", block="element"
)
def ram(
    base: Tensor,
    deltas: Tensor,
    *,
    epsilon: float = 1e-5,
    boost: Annotated[float, Search(0.0, 0.1, 0.3)] = 0.0,
    limit: float = 0.2,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: an entry of d_i is a change where it is larger than `epsilon`. Where several models have one, the mean of
    these is added to the base; where one alone has, l_i d_i, l_i = 1 + boost * min(limit, shared_i / alone_i), from
    how many entries model i changed with others and alone.
    Differs: boost 0 is the paper's RAM; boost 0.1 is RAM+ with mergekit's defaults for `ramplus_tl`, where `boost` is
    `r` and `limit` is `alpha`. It counts within each tensor, as mergekit; the paper counts over the whole model
    (`scope="model"` does).

    >>> import torch
    >>> ram(torch.zeros(3), torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    tensor([2., 2., 0.])
    """
    for name, value in (("epsilon", epsilon), ("boost", boost), ("limit", limit)):
        if value < 0:
            raise AllroundError(f"merge with {name} {value}", "it is less than zero", "give zero or more")
    changes = F.hardshrink(deltas, epsilon)
    changed = changes.sign().abs_().reshape(len(deltas), -1)
    number = changed.sum(0)
    if not boost:
        return base + changes.sum(0).div_(number.clamp_min_(1).reshape(base.shape))
    alone = (2 - number).clamp_(0, 1)  # where nobody changed anything it does not matter
    both, own = whole.sum(torch.stack([changed.sum(1), torch.mv(changed, alone)]).double())
    factors = boost * ((both - own) / own.clamp_min(epsilon)).clamp(0, limit)
    merged = mix(factors, changes).mul_(alone.reshape(base.shape))
    return merged.add_(changes.sum(0).div_(number.clamp_min_(1).reshape(base.shape))).add_(base)
