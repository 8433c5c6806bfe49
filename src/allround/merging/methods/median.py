"""Median: the middle of the changes, one weight at a time."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.registry import Search, method


@method(
    source="coordinate-wise median: Yin et al., ICML 2018, arXiv:1803.01498; for merging Tao et al., arXiv:2411.18607",
    paper="Task Arithmetic Through The Lens Of One-Shot Federated Learning",
    base="optional",
    block="element",
)
def median(base: Tensor, deltas: Tensor, *, scale: Annotated[float, Search(0.7, 1.0, 1.5, 2.0)] = 1.0) -> Tensor:
    """Merge k changes of one weight into their scaled median.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * median_i d_i; where k is even, the mean of the two in the middle
    Differs: where k is even the authors' code takes the lower of the two, which pulls all weights down.

    >>> import torch
    >>> median(torch.zeros(2), torch.tensor([[1.0, 0.0], [3.0, 1.0], [9.0, -4.0]]))
    tensor([3., 0.])
    """
    ordered = deltas.sort(0).values
    k = len(deltas)
    return base + scale * (ordered[(k - 1) // 2] + ordered[k // 2]) / 2
