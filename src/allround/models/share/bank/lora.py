"""Low-rank changes: two thin matrices for each module."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.bank_base import Bank, side_by_side
from allround.models.share.gate_base import uniform


@method(
    source="Hu et al., ICLR 2022, arXiv:2106.09685; starts as PEFT's: A uniform within 1 / sqrt(width), B zero",
    reads="input",
)
class Lora(Bank):
    """alpha / rank * B A of each module.

    mix: "outputs" weighs what the modules give; "factors" averages the A and the B apart before they are multiplied, as
    Polytropon does (Ponti et al., EACL 2023), which costs one product whatever the number of modules. Both are the same
    where one module has all the weight. heads: parts of the rows of A and of B that are weighed apart, as many weights
    for each (MHR: Caccia et al., NeurIPS 2023); the factors are averaged apart then.

    Shapes: a (count, rank, width), b (count, outputs, rank).

    >>> Lora(2, 4, 3)(torch.ones(5, 1, 4)).abs().sum().item()
    0.0
    """

    def __init__(
        self,
        count: int,
        width: int,
        outputs: int,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        mix: Literal["outputs", "factors"] = "outputs",
        heads: int = 1,
    ) -> None:
        super().__init__(count, width, outputs)
        self.scale, self.mix, self.heads = alpha / rank, mix, heads
        self.a = nn.Parameter(uniform((count, rank, width), width**-0.5))
        self.b = nn.Parameter(torch.zeros(count, outputs, rank))

    def forward(self, values: Tensor) -> Tensor:
        return self.scale * side_by_side(side_by_side(values, self.a), self.b)

    def mixed(self, values: Tensor, weights: Tensor) -> Tensor:
        if self.heads == 1 and (self.mix == "outputs" or weights.dim() > 1):
            # Weighed between the factors, where the vectors are short, so that no module's own output is computed.
            inner = (values @ self.a.flatten(0, 1).T).unflatten(-1, self.a.shape[:2]) * weights.unsqueeze(-1)
            given: Tensor = inner.flatten(-2) @ (self.scale * self.b).transpose(0, 1).flatten(1).T
            return given
        a, b = self.factors(weights)
        return (values @ a.T) @ b.T

    def factors(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices, (rank, width) and (outputs, rank), whose product is the mixed change; its scale is in the
        second. weights: (count,), or with heads (heads, count)."""
        if self.heads > 1:
            # Parts of what A reads, and of what B gives.
            of_read = torch.arange(self.width, device=weights.device) * self.heads // self.width
            of_given = torch.arange(self.outputs, device=weights.device) * self.heads // self.outputs
            a = torch.einsum("wk,krw->rw", weights[of_read], self.a)
            return a, self.scale * torch.einsum("ok,kor->or", weights[of_given], self.b)
        if self.mix == "factors":
            a = torch.einsum("k,krd->rd", weights, self.a)
            return a, self.scale * torch.einsum("k,kor->or", weights, self.b)
        return self.a.flatten(0, 1), self.scale * (weights[:, None, None] * self.b).transpose(0, 1).flatten(1)
