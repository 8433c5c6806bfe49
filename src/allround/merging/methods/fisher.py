"""Fisher merging: a mean in which each weight of each model counts by how much its predictions depend on it."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.matrices import mean, wide
from allround.merging.parts import Each, each
from allround.merging.whole import WHOLE, Whole


@method(
    source="Matena and Raffel, NeurIPS 2022, arXiv:2111.09832",
    base="optional",
    block="element",
    scope="model",
    needs=("fisher",),
)
def fisher(
    base: Tensor,
    deltas: Tensor,
    *,
    fisher: Tensor,
    weights: Each = 1.0,
    floor: Annotated[float, Search(1e-8, 1e-6, 1e-4)] = 1e-6,
    normalize: bool = True,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight into the mean that is weighted by the diagonal Fisher information F_i.

    Shapes: base (*s), deltas (k, *s), fisher (k, *s) -> merged (*s). An empty `fisher`, (k, 0), stands for a weight
    that has none: there the mean is weighted by `weights` alone.
    Formula: base + sum_i c_i F_i d_i / sum_i c_i F_i, which is the weighted mean of the models; F_i is at least
    `floor`, and c_i = w_i / ||F_i|| over the whole model, or w_i without `normalize`
    Differs: the authors' code puts the floor under the first model alone, unless told to favour none. The norm is over
    the whole model as there (`scope="tensor"` takes it over each weight).

    >>> import torch
    >>> fisher(torch.zeros(2), torch.tensor([[1.0, 1.0], [3.0, 2.0]]), fisher=torch.tensor([[3.0, 4.0], [4.0, 3.0]]))
    tensor([2.1429, 1.4286])
    """
    if floor <= 0:
        raise AllroundError(f"set 'floor' of 'fisher' to {floor}", "that is not above zero", "give one such as 1e-6")
    column = each(weights, deltas)
    if normalize:
        squares = wide(fisher).square().reshape(len(fisher), fisher[0].numel()).sum(1)
        norms = whole.sum(squares).sqrt()
        column = column / torch.where(norms > 0, norms, 1).to(deltas.dtype).reshape(column.shape)
    if fisher.numel() == 0:
        return base + mean(deltas, weights)
    counted = fisher.clamp_min(floor).mul_(column)
    return base + (counted * deltas).sum(0) / counted.sum(0)
