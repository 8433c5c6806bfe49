"""PCB: each entry counts by how large it is in its own change and how well it agrees with the others."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging import kernels
from allround.merging.whole import WHOLE, Whole

#: The share of the smallest and of the largest magnitudes that are limited.
_ENDS = 0.0001
#: Up to here tanh(x) is x, to half a unit in the last place of float32. Changes are mostly so small, and it is slow.
_LINEAR = 3e-4


@method(
    source="Du et al., NeurIPS 2024, arXiv:2410.02396, section 3; the form is that of the released code",
    paper="Parameter Competition Balancing for Model Merging",
    block="element",
    scope="model",
)
def pcb(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[float, Search(0.05, 0.1, 0.2)] = 0.1,
    scale: Annotated[float, Search(0.7, 1.0, 1.2, 1.5, 2.0)] = 1.0,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_i b_i t_i / sum_i b_i; t_i = d_i with magnitudes limited to those between its smallest
    and its largest 0.01 %; score_i = exp(k * n_i^2) * tanh(d_i * sum_j d_j), n_i = |t_i| brought to 0 .. 1;
    b_i = score_i brought to 0 .. 1 between the least of its `keep` largest (a share) and its largest, 0 below
    Differs: the paper writes softmaxes for exp and tanh, and does not limit the magnitudes; this is the released code.
    There a share so large that changes against the sum are among the `keep` largest gives them weight; here they never
    have any. Where all kept scores of a change are equal they count as 1; the code divides zero by zero.

    >>> pcb(torch.zeros(4), torch.tensor([[1.0, 2.0, 0.0, 0.1], [1.0, -1.0, 0.3, 0.2]]), keep=0.5)
    tensor([1., 1., 0., 0.])
    """
    if not 0 < keep <= 1:
        raise AllroundError(f"keep {keep} of each change", "it is not between 0 and 1", "give one such as 0.1")
    models, size = len(deltas), whole.size(base)
    last, first = (size - int(size * _ENDS)), (size - max(0, int(size * (1 - _ENDS) - 1)))
    kept = max(1, size - int(size * (1 - keep)))
    flat = deltas.reshape(models, -1)
    ends = whole.cut(flat, [[first] * models, [last] * models])
    high, low = ends.tolist()
    total = flat.sum(0)
    score = torch.empty_like(flat)
    peaks = kernels.competition(flat, total, *ends, out=score)
    for place, (change, row, top, bottom) in enumerate(zip(flat, score, high, low, strict=True)):
        if peaks is not None and peaks[place] <= _LINEAR:
            continue
        # exp(k n^2) up to a factor, so that it stays finite for any number of models.
        torch.abs(change, out=row).clamp_(bottom, top).sub_(bottom).div_(top - bottom if top > bottom else 1.0)
        row.square_().sub_(1).mul_(models).exp_().mul_(torch.tanh_(change * total)).clamp_min_(0)
    bounds = whole.cut(score, [[1] * models, [kept] * models])
    merged = kernels.competed(flat, score, torch.cat([ends, bounds]))
    if merged is None:
        merged = _weighted(flat, score, ends.tolist(), bounds.tolist())
    return base + scale * merged.reshape(base.shape)


def _weighted(flat: Tensor, score: Tensor, ends: list[list[float]], bounds: list[list[float]]) -> Tensor:
    """sum_i b_i t_i / sum_i b_i; the scores become the b_i."""
    merged = torch.zeros_like(flat[0])
    for change, row, top, bottom, most, limit in zip(flat, score, *ends, *bounds, strict=True):
        if most > limit:
            row.sub_(limit).clamp_min_(0).div_(most - limit)
        else:
            row.ge_(limit).mul_(float(most > 0))
        merged.addcmul_(change.abs().clamp_(bottom, top).copysign_(change), row)
    return merged.div_(score.sum(0).clamp_min_(1e-12))
