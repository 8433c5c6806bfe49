"""TIES: trim each change, elect one sign per weight, average the changes that agree with it."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method


@method(
    source="Yadav et al., NeurIPS 2023, arXiv:2306.01708, Algorithm 1",
    paper="Resolving Interference When Merging Models",
)
def ties(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[float, Search(0.1, 0.2, 0.4, 0.7)] = 0.2,
    scale: Annotated[float, Search(0.4, 0.7, 1.0, 1.4, 2.0, 3.0)] = 1.0,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * mean{t_i : t_i != 0, sign(t_i) = sign(sum_j t_j)}, t_i = d_i with all but its `keep`
    largest entries (a share, by magnitude) set to zero
    Differs: trims within each tensor, the paper over the whole model. Where the trimmed changes sum to exactly
    zero the paper's code elects the sign that most weights have; here the result is the base.

    >>> ties(torch.zeros(4), torch.tensor([[4.0, 0.1, -2.0, 0.0], [2.0, 0.2, 3.0, 0.0]]), keep=0.5)
    tensor([3., 0., 3., 0.])
    """
    if not 0 < keep <= 1:
        raise AllroundError(f"keep {keep} of each change", "that is no share between 0 and 1", "give one such as 0.2")
    trimmed = _trim(deltas.reshape(len(deltas), -1), keep)
    elected = trimmed.sum(0).sign()
    agree = (trimmed.sign() == elected) & (trimmed != 0)
    merged = (trimmed * agree).sum(0) / agree.sum(0).clamp_min(1)
    return base + scale * merged.reshape(base.shape)


def _trim(rows: Tensor, keep: float) -> Tensor:
    """Zero all but the ceil(keep * n) entries of largest magnitude in each row; ties at the threshold stay."""
    size = rows.shape[1]
    count = min(size, max(1, -int(-keep * size // 1)))
    if count == size or size == 0:
        return rows
    magnitude = rows.abs()
    threshold = magnitude.kthvalue(size - count + 1, dim=1, keepdim=True).values
    return torch.where(magnitude >= threshold, rows, 0.0)
