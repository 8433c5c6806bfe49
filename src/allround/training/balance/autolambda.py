"""Auto-Lambda: learned weights that make a step lower the validation loss most."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range, descend

#: No weight falls below this share of what all start from.
LEAST = 1e-3


@method(source="Liu et al., TMLR 2022, arXiv:2202.03091, first order", needs=("validation",),
        by="losses")  # fmt: skip
class Autolambda(Balancer):
    """A task gains weight where its gradient points as that of the validation loss does, and loses it where they are
    opposed; Adam takes the steps.

    Formula: minimise V(theta - sum_t w_t g_t) over w, from w = 1: the slope in w_t is -g_t . dV/dtheta
    Differs: dV/dtheta is taken before the step and the learning rate is left out, which Adam would take out again; the
    paper takes it after a trial step and multiplies by differences of the training losses along it. The optimiser is
    seen as plain gradient descent. V is the mean validation loss of all tasks on rows held out, where the code draws
    other training rows and lets the user choose the tasks. Weights start at 1 with a rate of 0.01, where the code has
    0.1 and 0.0001, and stay above 0.001. What a step teaches counts from the next step on. A task that was missing
    takes up to 10 steps of Adam when it comes back, so that how often it is drawn does not matter.

    >>> from allround.training.balancing import Outline
    >>> made = Autolambda(Outline(("a", "b"), (2, 2), (10, 10)), rate=0.1)
    >>> rows = torch.tensor([8.0, 8.0])
    >>> made.learn(StepView(torch.tensor([0, 1]), rows, rows, rows, validation=torch.tensor([3.0, -0.2]).double()))
    >>> made.everyone()
    tensor([1.1000, 0.9000], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, rate: float = 0.01) -> None:
        super().__init__(outline)
        check_range("autolambda", "rate", rate, 0)
        self.rate = rate
        self.state["weights"] = torch.ones(len(outline), dtype=torch.float64)

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.state["weights"][task])

    def everyone(self) -> Tensor:
        return self.state["weights"].clone()

    def learn(self, seen: StepView) -> None:
        assert seen.validation is not None
        descend(self.state, "weights", seen.tasks, -seen.validation, rate=self.rate)
        self.state["weights"] = self.state["weights"].clamp_min(LEAST)
