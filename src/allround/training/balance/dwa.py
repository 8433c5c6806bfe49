"""DWA: a task whose loss falls more slowly weighs more."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range


@method(source="Liu et al., CVPR 2019, arXiv:1803.10704, equation 7", needs=("losses",), by="losses")
class Dwa(Balancer):
    """Dynamic weight average: the ratio of the mean training losses of the last two epochs says how fast a task learns.

    Formula: w = T softmax(r / temperature), r_t = L_t(last epoch) / L_t(the epoch before)
    Differs: an epoch is what lies between two evaluations. A task without two mean losses has r_t = 1; one that is
    missing from an epoch keeps those that it has. No weight falls below 1e-9.

    >>> from allround.training.balancing import Outline
    >>> made = Dwa(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> rows = torch.tensor([8.0, 8.0])
    >>> for losses in ([2.0, 2.0], [1.0, 2.0]):
    ...     made.learn(StepView(torch.tensor([0, 1]), torch.tensor(losses), rows, rows))
    ...     made.evaluated(torch.zeros(2))
    >>> made.everyone()
    tensor([0.8756, 1.1244], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, temperature: float = 2.0) -> None:
        super().__init__(outline)
        check_range("dwa", "temperature", temperature, 0, above=True)
        self.temperature = temperature
        nothing = torch.zeros(len(outline), dtype=torch.float64)
        self.state.update(total=nothing, count=nothing, last=nothing + torch.nan, before=nothing + torch.nan)

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.everyone()[task])

    def everyone(self) -> Tensor:
        # The smallest double instead of 0, so that a ratio is a number.
        ratio = self.state["last"] / self.state["before"].clamp_min(torch.finfo(torch.float64).tiny)
        ratio = ratio.nan_to_num(1.0, posinf=1e300)
        return (len(ratio) * (ratio / self.temperature).softmax(0)).clamp_min(1e-9)

    def learn(self, seen: StepView) -> None:
        self.state["total"] = self.state["total"].index_add(0, seen.tasks, seen.losses.double())
        self.state["count"] = self.state["count"].index_add(0, seen.tasks, torch.ones_like(seen.losses.double()))

    def evaluated(self, losses: Tensor) -> None:
        there = self.state["count"] > 0
        mean = self.state["total"] / self.state["count"].clamp_min(1)
        self.state["before"] = torch.where(there, self.state["last"], self.state["before"])
        self.state["last"] = torch.where(there, mean, self.state["last"])
        nothing = torch.zeros_like(mean)
        self.state.update(total=nothing, count=nothing.clone())
