"""DSelect-k: a few modules for a task, chosen by bits that a smooth step makes of numbers."""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, uniform

#: Added in a logarithm, and the least mass that is divided by.
TINY = 1e-6


@method(
    source="Hazimeh et al., NeurIPS 2021, arXiv:2106.03760; checked against dselect_k_moe.py of "
    "google-research/google-research"
)
class Dselect(Gate):
    """The mean of `chosen` selectors, weighed by a softmax; each is the product of its bits, or of what they lack to 1.

    reads: whether bits and weights of the selectors are numbers of the task's own ("task"), or linear in the vectors
    that the gate reads ("stream"). gamma: a number beyond half of it is a bit of 0 or 1, without a gradient. entropy:
    weight of the selectors' entropy in the loss, which grows from 0 over the training. Where the modules are no power
    of two, one over the mass on those that there are, less 1, is added too.

    Differs: the authors' sums over rows are means; their entropy has no schedule of its own.

    >>> _ = torch.manual_seed(0)
    >>> [round(w, 1) for w in Dselect(4, 1)(torch.ones(1)).tolist()]
    [0.3, 0.3, 0.2, 0.2]
    """

    def __init__(
        self,
        count: int,
        width: int,
        own: tuple[int, ...] = (),
        *,
        chosen: int = 2,
        gamma: float = 1.0,
        entropy: float = 0.01,
        reads: Literal["task", "stream"] = "task",
    ) -> None:
        super().__init__(count, width, own)
        bits = (count - 1).bit_length()
        self.chosen, self.gamma, self.entropy, self.reads = chosen, gamma, entropy, reads
        codes = torch.tensor(list(product((False, True), repeat=bits))[:count])
        self.register_buffer("codes", codes.reshape(count, bits), persistent=False)
        self.bits = nn.Parameter(uniform((chosen, bits), gamma / 100))
        self.weights = nn.Parameter(uniform((chosen,), 0.05))
        if reads == "stream":
            self.bits_of = nn.Parameter(uniform((chosen * bits, width), gamma / 100))
            self.weights_of = nn.Parameter(uniform((chosen, width), 0.05))
        self._selectors: Tensor | None = None

    def forward(self, values: Tensor) -> Tensor:
        bits: Tensor = self.bits
        weights: Tensor = self.weights
        if self.reads == "stream":
            bits = bits + (values @ self.bits_of.T).unflatten(-1, tuple(self.bits.shape))
            weights = weights + values @ self.weights_of.T
        step = smooth_step(bits, self.gamma).unsqueeze(-2)  # (*, chosen, 1, bits)
        self._selectors = torch.where(self.get_buffer("codes"), step, 1 - step).prod(-1)
        return (weights.softmax(-1).unsqueeze(-1) * self._selectors).sum(-2)

    def penalty(self) -> Tensor | None:
        if self._selectors is None:
            return None
        selectors = self._selectors
        entropy = -(selectors * (selectors + TINY).log()).sum((-1, -2)).mean()
        reached = selectors.sum(-1)
        lacking = (1 / reached.clamp_min(TINY) - 1).sum(-1).mean()
        return self.entropy * self.share * entropy + (lacking if self.count & (self.count - 1) else 0.0)


def smooth_step(values: Tensor, gamma: float) -> Tensor:
    """0 below -gamma / 2, 1 above gamma / 2, and a cubic between them.

    >>> smooth_step(torch.tensor([-1.0, 0.0, 0.25, 1.0]), 1.0).tolist()
    [0.0, 0.5, 0.84375, 1.0]
    """
    within = values.clamp(-gamma / 2, gamma / 2)
    return -2 * within**3 / gamma**3 + 3 * within / (2 * gamma) + 0.5
