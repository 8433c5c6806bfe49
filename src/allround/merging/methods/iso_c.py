"""Iso-C: add up the changes of all specialists, and give all singular directions of the sum the same weight."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.matrices import directions, flat, mean, typical


@method(
    source="Marczak et al., ICML 2025, arXiv:2502.04959, section 4.1",
    paper="No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
    block="tensor",
)
def iso_c(
    base: Tensor, deltas: Tensor, *, scale: Annotated[float, Search(0.5, 0.8, 1.0, 1.3, 1.6, 2.0)] = 1.0
) -> Tensor:
    """Merge k changes of one weight into their sum with a flat spectrum.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * mean(S) U V, where U diag(S) V is the singular value decomposition of sum_i d_i, without the
    directions in which the sum is zero (up to rounding). What is no matrix, such as a bias or the weight of a
    convolution, is averaged: base + scale * mean_i d_i.
    Differs: where the sum has fewer directions than the matrix, as with adapters, the authors' code takes the mean over
    zeros too and fills the directions without a change with whatever the decomposition returns. Here these stay as they
    are, and the others get all of the weight: the sum of the singular values is the same. Rounded to bfloat16, changes
    of low rank have all directions, so give adapters as they are. The authors average the matrix called
    text_projection; here it is a matrix like others, for a method knows no names.

    >>> import torch
    >>> iso_c(torch.zeros(2, 2), torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]))
    tensor([[2., 0.],
            [0., 2.]])
    """
    if base.ndim != 2:
        return base + scale * mean(deltas)
    u, s, v = directions(deltas.sum(0), size=typical(base))
    return base + (scale * flat(s) * u) @ v
