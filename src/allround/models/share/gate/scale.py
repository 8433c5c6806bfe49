"""A scale of each module, or of each number that it gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.share.gate_combining import Combiner


@method(source="Frohmann et al., ACL 2024 (ScaLearn), equations 4 to 7; checked against CPJKU/ScaLearn")
class Scale(Combiner):
    """sum of scale * module, without a softmax; scales begin near 2 / count.

    uniform: one number for each module in place of one for each number that it gives. dropout: the share of scales that
    are left out in a step of the training.
    """

    def __init__(
        self, count: int, width: int, own: tuple[int, ...] = (), *, uniform: bool = False, dropout: float = 0.3
    ) -> None:
        super().__init__(count, width, own)
        self.dropout = dropout
        self.scales = nn.Parameter(torch.randn(count, 1 if uniform else width) * 1e-3 + 2 / count)

    def combine(self, values: Tensor, found: Tensor) -> Tensor:
        return (found * F.dropout(self.scales, self.dropout, self.training)).sum(-2)
