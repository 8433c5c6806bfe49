"""Modules by the likeness of what is read to a key of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, uniform


@method(
    source="Bari et al., 2022 (SPT), section 3: prompts of a memory, retrieved by the likeness to the embedded input"
)
class Prototype(Gate):
    """softmax(keys @ x / sqrt(width)), of which the `k` largest are kept and divided by their sum.

    >>> _ = torch.manual_seed(0)
    >>> (Prototype(5, 3, k=2)(torch.ones(3)) > 0).sum().item()
    2
    """

    def __init__(self, count: int, width: int, own: tuple[int, ...] = (), *, k: int = 4) -> None:
        super().__init__(count, width, own)
        self.k = min(k, count)
        self.keys = nn.Parameter(uniform((count, width), 1.0))

    def forward(self, values: Tensor) -> Tensor:
        shares: Tensor = (values @ self.keys.T / self.width**0.5).softmax(-1)
        top = shares.topk(self.k, -1)
        kept: Tensor = top.values / top.values.sum(-1, keepdim=True)
        return torch.zeros_like(shares).scatter(-1, top.indices, kept)
