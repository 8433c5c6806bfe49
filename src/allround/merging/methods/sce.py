"""SCE: select the entries that vary, calculate a weight for each model, erase what goes against the sum."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.angles import gram, mix
from allround.merging.parts import keep_from
from allround.merging.whole import WHOLE, Whole


@method(source="Wan et al., FuseChat, 2024, arXiv:2408.07990, the method SCE", block="element")
def sce(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[float, Search(0.1, 0.3, 1.0)] = 1.0,
    floor: float = 1e-6,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + sum_A w_i s_i / sum_A w_i over the models A whose s_i has the sign of sum_j s_j. s_i = d_i at the
    share `keep` of the entries that vary most over the models (counted are those that vary at all), else zero;
    w_i = mean(s_i^2), divided by the sum of these.
    Differs: the mean squares give weights only where they sum to `floor` or more; below it all weights are equal, as in
    mergekit. Changes of a short tuning are mostly below: set `floor` to 0 for the paper's weights. Entries that vary
    as much as the last one selected are selected too, and where the sum is zero plus is elected.

    >>> import torch
    >>> sce(torch.zeros(2), torch.tensor([[1.0, -3.0], [1.0, 1.0]]))
    tensor([ 1., -3.])
    """
    if not 0 <= keep <= 1:
        raise AllroundError(f"keep {keep} of the entries", "it is not between 0 and 1", "give one such as 0.3")
    if keep < 1:
        deltas = _selected(deltas, keep, whole)
    squares = gram(deltas, whole).diagonal() / max(1, whole.size(base))
    total = float(squares.sum())
    small = total < floor or total == 0
    weights = torch.full_like(squares, 1 / len(squares)) if small else squares / total
    sign = torch.copysign(torch.ones((), dtype=deltas.dtype, device=deltas.device), deltas.sum(0))
    agreeing = (deltas * sign).clamp_min_(0)
    merged = mix(weights, agreeing).mul_(sign)
    divisor = mix(weights, agreeing.sign_())
    return base + merged.div_(divisor.clamp_min_(1e-6))


def _selected(deltas: Tensor, keep: float, whole: Whole) -> Tensor:
    """Zero all but the entries whose variance over the models is largest."""
    # From the first model on: so the variance is exactly zero where all agree, and nowhere loses more than k roundings.
    apart = deltas[1:] - deltas[0]
    mean = apart.sum(0).div_(len(deltas))
    variance = apart.square_().sum(0).div_(len(deltas)).sub_(mean.square_()).clamp_min_(0)
    varying = int(whole.sum(variance.count_nonzero()))
    count = int(varying * keep)
    cut = whole.cut(variance[None], [max(1, count)])
    if count == 0:
        return torch.zeros_like(deltas)
    return deltas * keep_from(variance[None], cut)[0].sign_()
