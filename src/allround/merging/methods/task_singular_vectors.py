"""TSV-Merge: the first singular directions of each specialist, made orthogonal to those of the others."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.matrices import directions, mean, polar, typical


@method(source="Gargiulo et al., CVPR 2025, arXiv:2412.00081, Algorithm 1", block="tensor")
def task_singular_vectors(
    base: Tensor, deltas: Tensor, *, scale: Annotated[float, Search(0.5, 0.8, 1.0, 1.3, 1.6, 2.0)] = 1.0
) -> Tensor:
    """Merge k changes of one weight without interference between their singular directions.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * polar(U) diag(S) polar(V), where U, S, V are the first r / k singular triples of each d_i
    side by side, r is the shorter side of the matrix, and polar(U) is the nearest matrix with orthonormal columns. What
    is no matrix is averaged: base + scale * mean_i d_i.
    Differs: a matrix with a side shorter than k, for which the authors' code keeps no direction and so no change, is
    averaged. Directions without a change (up to rounding), which a specialist of low rank has among its first r / k,
    take no part: in the authors' code the decomposition returns some for them, and the others are made orthogonal to
    these too. Directions that specialists share to the last digit are shared out between them; there the authors' code
    takes whatever the decomposition returns. The authors average the matrix called text_projection; here it is a matrix
    like others.

    >>> import torch
    >>> task_singular_vectors(torch.zeros(2, 2), torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 2.0]]]))
    tensor([[3., 0.],
            [0., 2.]])
    """
    count = min(base.shape) // len(deltas) if base.ndim == 2 else 0
    if not count:
        return base + scale * mean(deltas)
    found = [directions(change, count, size=typical(base)) for change in deltas]
    u, s, v = (torch.cat(parts, axis) for parts, axis in zip(zip(*found, strict=True), (1, 0, 0), strict=True))
    return base + (scale * s * polar(u)) @ polar(v)
