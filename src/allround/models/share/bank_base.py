"""What a bank is: some modules of one sort, computed side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Bank(nn.Module, ABC):
    """`count` modules that map vectors of `width` numbers to vectors of `outputs`.

    `forward` gives what each of them makes of each vector; `mixed` what a task needs, which a bank may compute without
    each module's own.
    """

    def __init__(self, count: int, width: int, outputs: int) -> None:
        super().__init__()
        self.count, self.width, self.outputs = count, width, outputs

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """(*, 1 or count, width) -> (*, count, outputs): all modules on the same vector, or each on its own."""

    def mixed(self, values: Tensor, weights: Tensor) -> Tensor:
        """(*, width), weights (count,) or (*, count) -> (*, outputs)."""
        found: Tensor = self(values.unsqueeze(-2))
        return (found * weights.unsqueeze(-1)).sum(-2)


def side_by_side(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each module's matrix times its vectors: (*, 1 or k, d), weight (k, o, d), bias (k, o) -> (*, k, o)."""
    count, outputs, width = weight.shape
    if values.shape[-2] == 1:
        found = (values.squeeze(-2) @ weight.reshape(count * outputs, width).T).unflatten(-1, (count, outputs))
    else:
        flat = values.reshape(-1, count, width).transpose(0, 1)
        found = (flat @ weight.transpose(1, 2)).transpose(0, 1).reshape(*values.shape[:-1], outputs)
    made: Tensor = found if bias is None else found + bias
    return made
