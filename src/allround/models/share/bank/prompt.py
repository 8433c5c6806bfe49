"""Vectors that are put in front of what an encoder reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.bank_base import Bank


@method(
    source="Lester et al., EMNLP 2021 (prompt tuning), section 2; tuners/prompt_tuning of huggingface/peft: vectors in "
    "front of the embedded input"
)
class Prompt(Bank):
    """As many vectors as have `outputs` numbers together; they depend on nothing that is read.

    deviation: of the numbers as they begin.

    Shapes: vectors (count, length, width).

    >>> Prompt(2, 4, 12).vectors.shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, count: int, width: int, outputs: int, *, deviation: float = 0.02) -> None:
        super().__init__(count, width, outputs)
        self.vectors = nn.Parameter(torch.randn(count, outputs // width, width) * deviation)

    def forward(self, values: Tensor) -> Tensor:
        return self.vectors.flatten(1).expand(*values.shape[:-2], self.count, self.outputs)
