"""IMTL-L: a learned scale for each task that brings all losses to the same size."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range, descend

#: The logarithm of a scale stays within these limits, which only a loss of 0 or of billions would take it to.
LIMIT = 20.0


@method(source="Liu et al., ICLR 2021, openreview IMPnRXEWpvr, loss balance", needs=("losses",), by="losses")
class ImtlL(Balancer):
    """The logarithm s of each task's scale is learned along, by Adam; where it is right, the scaled loss is 1.

    Formula: minimise sum_t exp(s_t) L_t - s_t over s, from s = 0; w_t = exp(s_t)
    Differs: the scales have a `rate` of their own, so that a few hundred steps at a low learning rate move them, and
    stay between exp(-20) and exp(20). A task that was missing takes up to 10 steps of Adam when it comes back, so that
    how often it is drawn does not matter.

    >>> from allround.training.balancing import Outline
    >>> made = ImtlL(Outline(("a", "b"), (2, 2), (10, 10)), rate=0.1)
    >>> rows = torch.tensor([8.0, 8.0])
    >>> made.learn(StepView(torch.tensor([0, 1]), torch.tensor([3.0, 0.5]), rows, rows))
    >>> made.everyone()
    tensor([0.9048, 1.1052], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, rate: float = 0.01) -> None:
        super().__init__(outline)
        check_range("imtl_l", "rate", rate, 0)
        self.rate = rate
        self.state["log_scale"] = torch.zeros(len(outline), dtype=torch.float64)

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.everyone()[task])

    def everyone(self) -> Tensor:
        return torch.exp(self.state["log_scale"])

    def learn(self, seen: StepView) -> None:
        slope = self.everyone()[seen.tasks] * seen.losses - 1
        descend(self.state, "log_scale", seen.tasks, slope, rate=self.rate)
        self.state["log_scale"] = self.state["log_scale"].clamp(-LIMIT, LIMIT)
