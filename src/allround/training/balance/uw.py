"""UW: a learned variance for each task; what is uncertain weighs less."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range, descend

#: A log variance stays within these limits, which only a loss of 0 or of billions would take it to.
LIMIT = 20.0


@method(source="Kendall et al., CVPR 2018, arXiv:1705.07115, section 3.2", needs=("losses",), by="losses")
class Uw(Balancer):
    """Uncertainty weighting: the log variance s of each task is learned along, by Adam.

    Formula: minimise sum_t exp(-s_t) L_t / 2 + s_t / 2 over s, from s = 0; w_t = exp(-s_t) / 2
    Differs: one formula for all kinds of tasks, as in the common implementations; the paper has exp(-s) for
    classification. The variances have a `rate` of their own, so that a few hundred steps at a low learning rate move
    them, and stay between exp(-20) and exp(20). A task that was missing takes up to 10 steps of Adam when it comes
    back, so that how often it is drawn does not matter.

    >>> from allround.training.balancing import Outline
    >>> made = Uw(Outline(("a", "b"), (2, 2), (10, 10)), rate=0.1)
    >>> rows = torch.tensor([8.0, 8.0])
    >>> made.learn(StepView(torch.tensor([0, 1]), torch.tensor([3.0, 0.5]), rows, rows))
    >>> made.everyone()
    tensor([0.4524, 0.5526], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, rate: float = 0.01) -> None:
        super().__init__(outline)
        check_range("uw", "rate", rate, 0)
        self.rate = rate
        self.state["log_variance"] = torch.zeros(len(outline), dtype=torch.float64)

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.everyone()[task])

    def everyone(self) -> Tensor:
        return torch.exp(-self.state["log_variance"]) / 2

    def learn(self, seen: StepView) -> None:
        tasks = seen.tasks
        slope = 0.5 - self.everyone()[tasks] * seen.losses
        descend(self.state, "log_variance", tasks, slope, rate=self.rate)
        self.state["log_variance"] = self.state["log_variance"].clamp(-LIMIT, LIMIT)
