"""TIES: trim each change, elect one sign per weight, average the changes that agree with it."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.parts import Each, combine, trim_at
from allround.merging.whole import WHOLE, Whole


@method(
    source="Yadav et al., NeurIPS 2023, arXiv:2306.01708, Algorithm 1",
    paper="Resolving Interference When Merging Models",
    block="element",
    build=True,
)
def ties(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[Each, Search(0.1, 0.2, 0.4, 0.7)] = 0.2,
    scale: Annotated[float, Search(0.4, 0.7, 1.0, 1.4, 2.0, 3.0)] = 1.0,
    weights: Each = 1.0,
    normalize: bool = True,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_A w_i t_i / sum_A w_i over the models A whose w_i t_i has the sign of sum_j w_j t_j,
    t_i = d_i with all but its `keep` largest entries (a share, by magnitude) set to zero
    Differs: trims within each tensor, the paper over the whole model (`scope="model"` does). The weights are
    mergekit's; the paper has none. Where the sum is exactly zero plus is elected; the paper's code elects the sign
    that most weights of the model have.

    >>> import torch
    >>> ties(torch.zeros(4), torch.tensor([[4.0, 0.1, -2.0, 0.0], [2.0, 0.2, 3.0, 0.0]]), keep=0.5)
    tensor([3., 0., 3., 0.])
    """
    cut = trim_at(deltas, keep, base, whole)
    return base + scale * combine(deltas, weights, elect=True, normalize=normalize, cut=cut)
