"""MaTS: a few steps of conjugate gradients from task arithmetic towards the layer that RegMean solves for."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merge.matrices import knows, mean, weighted
from allround.merge.parts import Each, combine


@method(
    source="Tam et al., TMLR 2024, arXiv:2312.04339",
    paper="Merging by Matching Models in Task Subspaces",
    block="tensor",
    needs=("gram",),
)
def mats(
    base: Tensor,
    deltas: Tensor,
    *,
    gram: Tensor,
    steps: Annotated[int, Search(10, 30, 100)] = 100,
    tolerance: float = 1e-5,
    start_scale: Annotated[float, Search(0.1, 0.3, 0.5)] = 0.3,
    shrink: float = 1.0,
    weights: Each = 1.0,
) -> Tensor:
    """Merge k changes of one weight, each matched in the subspace that its model's inputs span.

    Shapes: base (out, in), deltas (k, out, in), gram (k, in, in) -> merged (out, in); gram as for regmean. What is no
    matrix, or has an empty gram, is averaged by `weights`.
    Formula: base + D, where D comes from `steps` steps of conjugate gradients on D sum_i G_i = sum_i d_i G_i, from
    start_scale * sum_i w_i d_i (1 / k starts from the average); G_i is w_i gram_i with its entries off the diagonal
    times `shrink`. Ends early when the residual is `tolerance` times the right side.
    Differs: the steps are taken in the eigenvectors of sum_i G_i, where each costs next to nothing; in exact
    arithmetic they are the same. The right side is that of the changes; in the authors' code it has the base in it, so
    that the same tolerance ends earlier. Their Fisher of Kronecker factors, which takes the gradients of the outputs
    too, is not offered.

    >>> import torch
    >>> gram = torch.stack([torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, 1.0]))])
    >>> mats(torch.zeros(1, 2), torch.tensor([[[4.0, 4.0]], [[0.0, 0.0]]]), gram=gram)
    tensor([[3., 2.]])
    """
    if steps < 0:
        raise AllroundError(f"take {steps} steps", "that is less than none", "give a number such as 100")
    if not knows(gram, base, "mats"):
        return base + mean(deltas, weights)
    start = start_scale * combine(deltas, weights, elect=False, normalize=False)
    total, side = weighted(deltas, gram, weights, shrink, "mats")
    residual = side - start.to(side.dtype) @ total
    # Each step multiplies the residual by a polynomial of `total`: in its eigenvectors, each column by one number.
    values, vectors = torch.linalg.eigh(total)
    residual = residual @ vectors
    peak = residual.abs().max().clamp_min(torch.finfo(residual.dtype).tiny)
    energy = (residual / peak).square().sum(0)
    enough = (tolerance * (side / peak).norm()) ** 2
    left, towards, found = torch.ones_like(values), torch.ones_like(values), torch.zeros_like(values)
    size = energy.sum()
    for _ in range(steps):
        curvature = (energy * values * towards.square()).sum()
        if size <= enough or curvature <= 0:
            break
        length = size / curvature
        found += length * towards
        left -= length * values * towards
        before, size = size, (energy * left.square()).sum()
        towards = left + size / before * towards
    moved: Tensor = (residual * found) @ vectors.T
    return base + start + moved.to(base.dtype)
