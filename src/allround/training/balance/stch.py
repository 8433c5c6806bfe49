"""STCH: the smooth maximum of the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView, per_task
from allround.training.learned import check_range

SCALES = ("log", "loss")
#: A smaller loss counts as this one where logarithms are taken.
SMALLEST = 1e-12


@method(source="Lin et al., ICML 2024, arXiv:2402.19078, smooth Tchebycheff, and the logarithms of their code",
        needs=("losses",), by="losses", together=True)  # fmt: skip
class Stch(Balancer):
    """Smooth Tchebycheff scalarisation: a step follows the gradient of a smooth maximum over the tasks.

    mu: how smooth; near 0 only the worst task counts. preference: how much each task's loss counts in the maximum.
    ideal: losses that cannot be beaten (for scale="loss"). warmup: share of the training in which scale="log" learns
    how large the losses are.
    Formula: w = d/dL mu log sum_t exp(f_t / mu), where scale="loss" has f_t = p_t (L_t - ideal_t), p the preference
    divided by its sum, and scale="log" has f_t = T p_t log(L_t / m_t), m_t the task's mean loss in the warm-up; during
    that, the gradient of sum_t log(L_t)
    Differs: the paper has "loss", its code "log" with equal preference, mu = 1 (which keeps the weights at 1 / m_t), a
    warm-up of 4 epochs of which the last counts, and the maximum times the number of tasks.

    >>> from allround.training.balancing import Outline
    >>> made = Stch(Outline(("a", "b"), (2, 2), (10, 10)), mu=0.5, scale="loss")
    >>> rows = torch.tensor([8.0, 8.0])
    >>> made.weigh(StepView(torch.tensor([0, 1]), torch.tensor([2.0, 1.0]).double(), rows, rows))
    tensor([0.3655, 0.1345], dtype=torch.float64)
    """

    def __init__(
        self,
        outline: Outline,
        *,
        mu: float = 0.5,
        scale: str = "log",
        preference: Mapping[str, float] | Sequence[float] = (),
        ideal: Mapping[str, float] | Sequence[float] = (),
        warmup: float = 0.1,
    ) -> None:
        super().__init__(outline)
        check_range("stch", "mu", mu, 0, above=True)
        check_range("stch", "warmup", warmup, 0, 1)
        if scale not in SCALES:
            raise AllroundError(f"balance by 'stch' with scale={scale!r}", "there is no such choice",
                                suggestion(str(scale), SCALES))  # fmt: skip
        self.mu, self.scale, self.warmup = mu, scale, warmup
        given = torch.tensor(per_task(preference, outline, "preference"), dtype=torch.float64)
        if not given.sum() > 0:
            raise AllroundError("balance by 'stch'", "no task is preferred", "give a task a preference above 0")
        self.preference = given / given.sum()
        self.ideal = torch.tensor(per_task(ideal or [0.0] * len(outline), outline, "ideal", 0.0), dtype=torch.float64)
        nothing = torch.zeros(len(outline), dtype=torch.float64)
        self.state.update(total=nothing, count=nothing.clone())

    def alone(self, raw: bool) -> bool:
        return raw and self.scale == "log"

    def weigh(self, seen: StepView) -> Tensor:
        if self._warming(seen):
            return _inverse(seen.losses)
        shares = self._heights(seen.tasks, seen.losses).softmax(0)
        return shares.clamp_min(1e-20) * self._slopes(seen.tasks, seen.losses)

    def learn(self, seen: StepView) -> None:
        # A task that the warm-up has not shown is as large as its first loss.
        fresh = (self.state["count"][seen.tasks] == 0) | self._warming(seen)
        self.state["total"] = self.state["total"].index_add(0, seen.tasks, seen.losses.double() * fresh)
        self.state["count"] = self.state["count"].index_add(0, seen.tasks, fresh.double())

    def _warming(self, seen: StepView) -> bool:
        """The warm-up has at least one step."""
        return self.scale == "log" and (seen.progress < self.warmup or not bool(self.state["count"].any()))

    def _heights(self, tasks: Tensor, losses: Tensor) -> Tensor:
        """f / mu."""
        if self.scale == "loss":
            return self.preference[tasks] * (losses - self.ideal[tasks]) / self.mu
        losses, count = losses.clamp_min(SMALLEST), self.state["count"][tasks]
        mean = torch.where(count > 0, self.state["total"][tasks] / count.clamp_min(1), losses).clamp_min(SMALLEST)
        return len(self.outline) * self.preference[tasks] * (losses / mean).log() / self.mu

    def _slopes(self, tasks: Tensor, losses: Tensor) -> Tensor:
        """df/dL."""
        preference = self.preference[tasks]
        return preference if self.scale == "loss" else len(self.outline) * preference * _inverse(losses)


def _inverse(losses: Tensor) -> Tensor:
    return 1 / losses.double().clamp_min(SMALLEST)
