"""Excess: tasks that are far from what they could reach weigh more."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range, rounds

#: Columns of the gradients that are looked at together.
COLUMNS = 1 << 20
#: The logarithm of a weight is no further than this below that of the largest.
DEEPEST = 30.0


@method(source="He et al., ICML 2024, arXiv:2402.02009, equations 6, 7 and 9", needs=("gradients",), by="losses")
class Excess(Balancer):
    """Robust multi-task learning with excess risks: g H^-1 g estimates how far a task's loss is above the least that it
    can be, with the roots of summed squared gradients for H; weights grow exponentially with it.

    warmup: share of the training whose mean excess risk is the measure of a task's own; weights are equal till then.
    Formula: e_t = sum_j g_tj^2 / sqrt(S_tj + 1e-7), S_t the sum of g_t^2 so far; w_t <- w_t exp(rate e_t / m_t), then
    w <- T w / sum(w), m_t the mean of e_t in the warm-up
    Differs: a step's weights come from the steps before it, so that they are known for tasks that are missing. The
    warm-up has at least a task's first step. A task that was missing counts for up to 10 steps when it comes back, so
    that how often it is drawn does not matter. No weight falls below exp(-30) of the largest. Squared gradients are
    kept for every task and shared weight (float32), in one tensor that is changed in place.

    >>> from allround.training.balancing import Outline
    >>> made = Excess(Outline(("a", "b"), (2, 2), (10, 10)), rate=1.0, warmup=0.0)
    >>> rows = torch.tensor([8.0, 8.0])
    >>> for gradients in ([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]]):
    ...     made.learn(StepView(torch.tensor([0, 1]), rows, rows, rows, gradients=torch.tensor(gradients)))
    >>> made.everyone()
    tensor([1.4936, 0.5064], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, rate: float = 0.01, warmup: float = 0.1) -> None:
        super().__init__(outline)
        check_range("excess", "rate", rate, 0)
        check_range("excess", "warmup", warmup, 0, 1)
        self.rate, self.warmup = rate, warmup
        nothing = torch.zeros(len(outline), dtype=torch.float64)
        self.state.update(logits=nothing, total=nothing.clone(), count=nothing.clone())

    def weigh(self, seen: StepView) -> Tensor:
        return self.everyone()[seen.tasks]

    def everyone(self) -> Tensor:
        return len(self.outline) * self.state["logits"].softmax(0)

    def learn(self, seen: StepView) -> None:
        assert seen.gradients is not None
        far = rounds(self.state, seen.tasks, len(self.outline))
        excess = self._excess(seen.tasks, seen.gradients, far)
        count = self.state["count"][seen.tasks]
        measured = (count > 0) & (seen.progress >= self.warmup)
        mean = self.state["total"][seen.tasks] / torch.where(count > 0, count, 1.0)
        gain = torch.where(measured, self.rate * far * excess / (mean + 1e-7), 0.0)
        logits = self.state["logits"].index_add(0, seen.tasks, gain)
        self.state["logits"] = (logits - logits.max()).clamp_min(-DEEPEST)
        self.state["total"] = self.state["total"].index_add(0, seen.tasks, torch.where(measured, 0.0, far * excess))
        self.state["count"] = self.state["count"].index_add(0, seen.tasks, torch.where(measured, 0.0, far))

    def _excess(self, tasks: Tensor, gradients: Tensor, far: Tensor) -> Tensor:
        """The estimate of each task, from stretches of columns one after the other; also adds up the squares, as often
        as there are rounds."""
        k, p = gradients.shape
        if "squares" not in self.state:
            self.state["squares"] = torch.zeros(len(self.outline), p, device=gradients.device)
        if self.state["squares"].device != gradients.device:
            self.state["squares"] = self.state["squares"].to(gradients.device)
        found = torch.zeros(k, dtype=torch.float64, device=gradients.device)
        for row, task in enumerate(tasks.tolist()):
            for start in range(0, p, COLUMNS):
                squares = gradients[row, start : start + COLUMNS] ** 2
                kept = self.state["squares"][task, start : start + COLUMNS].add_(squares, alpha=float(far[row]))
                found[row] += (squares / (kept + 1e-7).sqrt()).sum(dtype=torch.float64)
        return found.cpu()
