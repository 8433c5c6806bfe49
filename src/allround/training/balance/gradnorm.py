"""GradNorm: learned weights that bring the tasks' gradients to one size, larger where a task lags behind."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range, descend

#: Losses below this count as this one in ratios.
SMALLEST = 1e-12
#: A logit is no further than this below the largest.
DEEPEST = 30.0


@method(source="Chen et al., ICML 2018, arXiv:1711.02257, equation 2 and Algorithm 1", needs=("norms",), by="losses")
class Gradnorm(Balancer):
    """Gradient normalisation: Adam moves the weights so that the norm of each task's weighted gradient comes nearer to
    the mean norm times a power of how slowly the task learns.

    alpha: how much a task that lags behind gets ahead. warmup: share of the training whose mean loss is what a task
    starts from; weights are equal till then.
    Formula: minimise sum_t |w_t n_t - a r_t^alpha| over w, a the mean of w_t n_t and r_t = (L_t / first_t) / mean of
    these ratios, both as constants; w = T softmax(logits)
    Differs: weights are a softmax, as in LibMTL, where the paper divides them by their sum after each step. Norms are
    those of all shared weights, where the paper takes the last shared layer. What a step teaches counts from the next
    step on. Means are over the tasks present, and only their logits move; a task that was missing takes up to 10 steps
    of Adam when it comes back. The warm-up has at least a task's first step. Steps with one task are refused.

    >>> from allround.training.balancing import Outline
    >>> made = Gradnorm(Outline(("a", "b"), (2, 2), (10, 10)), rate=0.1, warmup=0.0)
    >>> rows = torch.tensor([8.0, 8.0])
    >>> for _ in range(2):
    ...     norms = torch.tensor([4.0, 1.0]).double()
    ...     made.learn(StepView(torch.tensor([0, 1]), torch.ones(2).double(), rows, rows, norms=norms))
    >>> made.everyone()
    tensor([0.9003, 1.0997], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, alpha: float = 1.5, rate: float = 0.025, warmup: float = 0.1) -> None:
        super().__init__(outline)
        check_range("gradnorm", "alpha", alpha, 0, 100)
        check_range("gradnorm", "rate", rate, 0)
        check_range("gradnorm", "warmup", warmup, 0, 1)
        self.alpha, self.rate, self.warmup = alpha, rate, warmup
        nothing = torch.zeros(len(outline), dtype=torch.float64)
        self.state.update(logits=nothing, total=nothing.clone(), count=nothing.clone())

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.everyone()[task])

    def everyone(self) -> Tensor:
        return len(self.outline) * self.state["logits"].softmax(0)

    def alone(self, raw: bool) -> bool:
        return False  # norms are compared within a step

    def learn(self, seen: StepView) -> None:
        assert seen.norms is not None
        ready = (self.state["count"][seen.tasks] > 0) & (seen.progress >= self.warmup)
        self._balance(seen.tasks[ready], seen.losses[ready], seen.norms[ready])
        fresh = (~ready).double()
        self.state["total"] = self.state["total"].index_add(0, seen.tasks, seen.losses * fresh)
        self.state["count"] = self.state["count"].index_add(0, seen.tasks, fresh)

    def _balance(self, tasks: Tensor, losses: Tensor, norms: Tensor) -> None:
        if len(tasks) < 2:
            return
        first = self.state["total"][tasks] / self.state["count"][tasks]
        ratios = losses.clamp_min(SMALLEST) / first.clamp_min(SMALLEST)
        everyone = self.everyone()
        weighted = everyone[tasks] * norms
        aim = weighted.mean() * (ratios / ratios.mean()) ** self.alpha
        # Through the softmax: dw_s/dlogit_t = w_s (1[s = t] - w_t / T).
        pull = weighted * (weighted - aim).sign()
        slope = pull - everyone[tasks] / len(everyone) * pull.sum()
        descend(self.state, "logits", tasks, slope, rate=self.rate)
        self.state["logits"] = (self.state["logits"] - self.state["logits"].max()).clamp_min(-DEEPEST)
