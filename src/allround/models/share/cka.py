"""How alike two sets of vectors of the same rows are."""

from __future__ import annotations

import torch
from torch import Tensor


def debiased_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centred kernel alignment, by the unbiased estimate of the independence criterion (Song et al., JMLR 2012).

    Shapes: a (n, d), b (n, e), at least four rows -> (). About 0 for vectors that have nothing to do with each other, 1
    for those that are the same up to a rotation and a scale; 0 where vectors do not vary.

    >>> rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> round(float(debiased_cka(rows, 2 * rows.flip(1))), 6)
    1.0
    """
    own = _criterion(a, a) * _criterion(b, b)
    return torch.where(own > 0, _criterion(a, b) / own.clamp_min(torch.finfo(own.dtype).tiny).sqrt(), 0.0)


def _criterion(a: Tensor, b: Tensor) -> Tensor:
    n = len(a)
    k, m = ((one @ one.T).fill_diagonal_(0) for one in (a, b))
    ones = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return ((k * m).sum() + ones - 2 / (n - 2) * (k.sum(0) @ m.sum(0))) / (n * (n - 3))
