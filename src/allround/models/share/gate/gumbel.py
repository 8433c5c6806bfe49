"""One module at a time, drawn by noise in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, uniform


@method(
    source="Jang et al., ICLR 2017; two layers and the temperature's way as in INK-USC/CrossTaskMoE, which draws noise "
    "after training too"
)
class Gumbel(Gate):
    """softmax((logits + Gumbel noise) / temperature) in training, and the module of the largest logit after it.

    hidden: numbers of a layer with GELU between what is read and the logits; 0 for logits that depend on nothing that
    is read. hard: whether training also takes one module alone, with the gradient of the softmax. first, last: the
    temperature at the beginning and the end of the training; between them it falls by the same factor in each step.

    >>> Gumbel(3, 4).eval()(torch.ones(4)).sum().item()
    1.0
    """

    def __init__(
        self,
        count: int,
        width: int,
        own: tuple[int, ...] = (),
        *,
        hidden: int = 0,
        hard: bool = True,
        first: float = 2.0,
        last: float = 0.1,
    ) -> None:
        super().__init__(count, width, own)
        self.hard, self.first, self.last = hard, first, last
        self.front = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, count)) if hidden else None
        self.numbers = None if hidden else nn.Parameter(uniform((count,), 1e-3))

    @property
    def temperature(self) -> float:
        made: float = self.first * (self.last / self.first) ** self.share
        return made

    def forward(self, values: Tensor) -> Tensor:
        logits = self.numbers if self.front is None else self.front(values)
        assert logits is not None
        best = torch.zeros_like(logits)
        if not self.training:
            return best.scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
        noise = -(-torch.rand_like(logits).clamp(1e-6, 1 - 1e-6).log()).log()
        soft = ((logits + noise) / self.temperature).softmax(-1)
        return best.scatter(-1, soft.argmax(-1, keepdim=True), 1.0) + soft - soft.detach() if self.hard else soft
