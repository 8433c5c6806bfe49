"""Small weights that are set to zero, and stay there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.model import Model
    from allround.tasks.task import Task


@torch.no_grad()
def prune(weights: Mapping[str, Tensor], share: float) -> None:
    """Set the smallest of the numbers of each matrix to zero, in place. Vectors, such as biases, are left alone.

    >>> weight = torch.tensor([[3.0, -1.0], [0.5, -2.0]])
    >>> prune({"weight": weight}, 0.5)
    >>> weight.tolist()
    [[3.0, 0.0], [0.0, -2.0]]
    """
    for value in weights.values():
        count = round(share * value.numel())
        if value.dim() > 1 and count:
            value.view(-1)[value.abs().flatten().topk(count, largest=False).indices] = 0.0


class KeptZeros(Term):
    """Numbers of shared matrices that are zero when a training begins stay so."""

    def __init__(self) -> None:
        super().__init__()
        self._free: dict[str, Tensor] = {}

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        self._free = {name: p.detach() != 0 for name, p in model.shared().items() if p.dim() > 1}

    @torch.no_grad()
    def stepped(self, model: Model) -> None:
        shared = model.shared()
        for name, free in self._free.items():
            shared[name].mul_(free)
