"""Average: the weighted mean of the models."""

from __future__ import annotations

from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.merging.parts import Each, combine, each


@method(
    source="uniform soup: Wortsman et al., ICML 2022, arXiv:2203.05482",
    base="optional",
    block="element",
    build=True,
)
def average(base: Tensor, deltas: Tensor, *, weights: Each = 1.0, normalize: bool = True) -> Tensor:
    """Merge k changes of one weight into their mean.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + sum_i w_i d_i / sum_i w_i, which is the weighted mean of the models
    Differs: without `normalize` the weighted changes are added up. Without a base, the weights themselves are averaged.

    >>> import torch
    >>> average(torch.ones(2), torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    tensor([3.0000, 1.5000])
    """
    if normalize and not float(each(weights, deltas).sum()):
        raise AllroundError(
            "take a weighted mean",
            "the weights add up to zero",
            "give others, or leave them as sums: --normalize false",
        )
    return base + combine(deltas, weights, elect=False, normalize=normalize)
