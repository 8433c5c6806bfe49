"""MetaGPT: task arithmetic whose coefficients follow from the sizes of the changes."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.merging.whole import WHOLE, Whole


@method(
    source="Zhou et al., EMNLP 2024, arXiv:2406.11385, section 4",
    paper="MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic",
    block="element",
    scope="model",
)
def metagpt(base: Tensor, deltas: Tensor, *, whole: Whole = WHOLE) -> Tensor:
    """Merge k changes of one weight, the larger ones with more weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + sum_i c_i d_i with c_i = |d_i|^2 / sum_j |d_j|^2, norms over the whole model. It minimises the
    paper's bound on the mean loss when the changes are orthogonal to each other.
    Differs: nothing. With `scope="tensor"` each tensor has coefficients of its own.

    >>> metagpt(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    tensor([0.1000, 2.7000])
    """
    norms = torch.linalg.vector_norm(deltas.reshape(len(deltas), -1), dim=1).double()
    squares = whole.sum(norms.square())
    shares = squares / squares.sum().clamp_min(torch.finfo(torch.float64).tiny)
    change: Tensor = torch.tensordot(shares.to(deltas.dtype), deltas, 1)
    return base + change
