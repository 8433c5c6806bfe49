"""Which skills a task has: of those that all share by chance in training, and its own always."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate.free import TINY
from allround.models.share.gate_base import Gate, bounded, uniform


@method(
    source="Caccia et al., NeurIPS 2023 (MHR), section 3.1, and tuners/poly/router.py of huggingface/peft; own skills: "
    "Wang et al., ICLR 2024 (C-Poly), section 3"
)
class Skills(Gate):
    """Probabilities of skills, divided by their sum; the task's own skills weigh 1 each beside them.

    In training skills are drawn from a relaxed Bernoulli of the temperature `relaxed`; 0 draws nothing. heads: parts of
    a module that have weights of their own; (heads, count) then.

    >>> Skills(3, 1, own=(0,)).eval()(torch.ones(1)).round(decimals=2).tolist()
    [1.0, 0.5, 0.5]
    """

    def __init__(
        self, count: int, width: int, own: tuple[int, ...] = (), *, heads: int = 1, relaxed: float = 1.0
    ) -> None:
        super().__init__(count, width, own)
        self.heads, self.relaxed = heads, relaxed
        self.numbers = nn.Parameter(uniform((heads, count - len(own)), 1e-3))
        self.register_buffer("order", torch.tensor(_order(count, own)), persistent=False)

    def begin(self, uses: Sequence[float]) -> None:
        with torch.no_grad():
            self.numbers[:] = bounded(uses).logit()

    def forward(self, values: Tensor) -> Tensor:
        numbers: Tensor = self.numbers
        if self.relaxed and self.training:
            drawn = torch.rand_like(numbers).clamp(1e-6, 1 - 1e-6)
            numbers = (numbers + drawn.log() - (1 - drawn).log()) / self.relaxed
        found = numbers.sigmoid()
        found = found / (found.sum(-1, keepdim=True) + TINY)
        found = torch.cat([found.new_ones(self.heads, len(self.own)), found], -1)[:, self.get_buffer("order")]
        return found if self.heads > 1 else found[0]


def _order(count: int, own: tuple[int, ...]) -> list[int]:
    """Where each module stands when a task's own come first."""
    first = [*own, *(n for n in range(count) if n not in own)]
    return [first.index(n) for n in range(count)]
