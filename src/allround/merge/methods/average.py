"""Average: the mean of the tuned weights."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method


@method(source="uniform soup: Wortsman et al., ICML 2022, arXiv:2203.05482")
def average(base: Tensor, deltas: Tensor) -> Tensor:
    """Merge k changes of one weight into their mean.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + mean_i d_i, which is the mean of the tuned weights

    >>> import torch
    >>> average(torch.ones(2), torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    tensor([3.0000, 1.5000])
    """
    return base + deltas.mean(0)
