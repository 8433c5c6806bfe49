"""FAMO: all losses shall fall at the same relative speed, judged by what the last step did to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView, per_task
from allround.training.learned import check_range, descend

#: Added to what a loss is above its lower bound.
SMALL = 1e-8


@method(source="Liu et al., NeurIPS 2023, arXiv:2306.03792, Algorithm 1, and Adam for the logits as in their code",
        needs=("losses", "after"), by="losses")  # fmt: skip
class Famo(Balancer):
    """Fast adaptive multitask optimisation: logits l of the tasks rise where a step lowered the log loss little.

    Formula: w_t = c z_t / D_t, z = softmax(l), D_t = L_t - lower_t + 1e-8, c = 1 / sum_t z_t / D_t; after the step,
    Adam at `rate` with weight decay `decay` moves l down the gradient of sum_t z_t (log D_t - log D_t after)
    Differs: the softmax is over the tasks present, and only their logits move; a task that was missing takes up to 10
    steps of Adam when it comes back. A loss below its bound counts as the bound. A step with a single task teaches
    nothing.

    >>> from allround.training.balancing import Outline
    >>> made = Famo(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> rows = torch.tensor([8.0, 8.0])
    >>> seen = StepView(torch.tensor([0, 1]), torch.tensor([2.0, 1.0]).double(), rows, rows)
    >>> made.stepped(seen, torch.tensor([1.0, 1.0]).double())
    >>> made.weigh(seen)
    tensor([0.3223, 0.6777], dtype=torch.float64)
    """

    def __init__(
        self,
        outline: Outline,
        *,
        rate: float = 0.025,
        decay: float = 1e-3,
        lower: Mapping[str, float] | Sequence[float] = (),
    ) -> None:
        super().__init__(outline)
        check_range("famo", "rate", rate, 0)
        check_range("famo", "decay", decay, 0)
        self.rate, self.decay = rate, decay
        self.lower = torch.tensor(per_task(lower or [0.0] * len(outline), outline, "lower", 0.0), dtype=torch.float64)
        self.state["logits"] = torch.zeros(len(outline), dtype=torch.float64)

    def early(self, task: int, loss: float, norm: float) -> float:
        above = max(loss - float(self.lower[task]), 0.0) + SMALL
        return float(self.state["logits"][task].exp()) / above

    def weigh(self, seen: StepView) -> Tensor:
        weights = self.state["logits"][seen.tasks].softmax(0) / self._above(seen.tasks, seen.losses)
        return weights / weights.sum()

    def stepped(self, seen: StepView, losses: Tensor) -> None:
        if len(seen) < 2:
            return
        fall = self._above(seen.tasks, seen.losses).log() - self._above(seen.tasks, losses).log()
        shares = self.state["logits"][seen.tasks].softmax(0)
        slope = shares * (fall - (shares * fall).sum())
        descend(self.state, "logits", seen.tasks, slope, rate=self.rate, decay=self.decay)

    def _above(self, tasks: Tensor, losses: Tensor) -> Tensor:
        return (losses - self.lower[tasks]).clamp_min(0) + SMALL
