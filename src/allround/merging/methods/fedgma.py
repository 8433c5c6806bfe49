"""FedGMA: add the changes up, and shrink every weight on whose direction the models disagree."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method


@method(
    source="gradient-masked averaging: Tenison et al., arXiv:2201.11986; for merging Tao et al., arXiv:2411.18607",
    paper="Task Arithmetic Through The Lens Of One-Shot Federated Learning",
    block="element",
)
def fedgma(
    base: Tensor,
    deltas: Tensor,
    *,
    agreement: Annotated[float, Search(0.2, 0.4, 0.7, 1.0)] = 0.4,
    scale: Annotated[float, Search(0.1, 0.2, 0.3, 0.5, 0.7, 1.0)] = 0.3,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * m * sum_i d_i, where m = 1 where a = |mean_i sign(d_i)| is at least `agreement`, else m = a
    Differs: nothing. The authors try `agreement` from 0.1 to 0.9.

    >>> fedgma(torch.zeros(3), torch.tensor([[1.0, 2.0, 0.0], [1.0, -1.0, 3.0]]), agreement=0.6, scale=1.0)
    tensor([2.0000, 0.0000, 1.5000])
    """
    if not 0 <= agreement <= 1:
        raise AllroundError(f"ask for the agreement {agreement}", "it is not between 0 and 1", "give one such as 0.4")
    agreed = torch.sign(deltas).mean(0).abs_()
    return base + scale * torch.where(agreed >= agreement, 1.0, agreed).mul_(deltas.sum(0))
