"""Weights of a task's own, which depend on no row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from allround.core.registry import method
from allround.models.share.gate_base import Gate, bounded, uniform

#: What keeps a sum that is divided by from being zero.
TINY = 1e-12


@method(
    source="cross-stitch: Misra et al., CVPR 2016, section 3 (near the identity); Polytropon: Ponti et al., EACL 2023, "
    "and the folder modeling of McGill-NLP/polytropon (relaxed Bernoulli in training, plain sigmoid after it, divided "
    "by the sum)"
)
class Free(Gate):
    """One number for each module, and what is made of it.

    form: "plain", the numbers themselves; "softmax"; "sigmoid", divided by their sum where `shares` says so. relaxed:
    in training a sigmoid is drawn from a relaxed Bernoulli of this temperature; 0 draws nothing. start: "near_own", the
    task's own module `keep` and the others what is left of 1 in equal parts; "random", between -`bound` and `bound`;
    "even", all zero, or for "plain" 1 / count. channels: weigh each of so many numbers of a module apart; behind the
    encoder alone.

    >>> [round(w, 2) for w in Free(3, 1, own=(1,), start="near_own")(torch.ones(1)).tolist()]
    [0.05, 0.9, 0.05]
    """

    def __init__(
        self,
        count: int,
        width: int,
        own: tuple[int, ...] = (),
        *,
        form: Literal["plain", "softmax", "sigmoid"] = "plain",
        start: Literal["near_own", "random", "even"] = "even",
        keep: float = 0.9,
        bound: float = 1e-3,
        relaxed: float = 0.0,
        shares: bool = False,
        channels: int = 0,
    ) -> None:
        super().__init__(count, width, own)
        self.form, self.relaxed, self.shares, self.channels = form, relaxed, shares, channels
        if start == "random":
            numbers = uniform((count,), bound)
        elif start == "near_own" and own and len(own) < count:
            numbers = torch.full((count,), (1 - keep) / (count - len(own)))
            numbers[list(own)] = keep / len(own)
        else:
            numbers = torch.full((count,), 1 / count if form == "plain" else 0.0)
        self.numbers = nn.Parameter(numbers[:, None].repeat(1, channels) if channels else numbers)

    def begin(self, uses: Sequence[float]) -> None:
        made = bounded(uses)
        if self.form != "plain":
            made = made.log() if self.form == "softmax" else made.logit()
        places = [place for place in range(self.count) if place not in self.own]
        with torch.no_grad():
            self.numbers[places] = made[:, None] if self.channels else made

    def forward(self, values: Tensor) -> Tensor:
        if self.form == "plain":
            return self.numbers
        if self.form == "softmax":
            return self.numbers.softmax(-2 if self.channels else -1)
        numbers: Tensor = self.numbers
        if self.relaxed and self.training:
            drawn = torch.rand_like(numbers).clamp(1e-6, 1 - 1e-6)
            numbers = (numbers + drawn.log() - (1 - drawn).log()) / self.relaxed
        found = numbers.sigmoid()
        return found / (found.sum(-2 if self.channels else -1, keepdim=True) + TINY) if self.shares else found
