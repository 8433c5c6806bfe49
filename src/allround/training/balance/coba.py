"""CoBa: weights from the slopes of the validation losses, so that all tasks converge together."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.training.balancing import Balancer, Outline
from allround.training.learned import check_range

RULES = ("paper", "code", "selfpaced")


@method(
    source="Gong et al., EMNLP 2024, arXiv:2410.06741; their code, and its self-paced loss before that",
    paper="MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning",
    by="losses",
)
class Coba(Balancer):
    """Convergence balancer: a straight line through each task's last validation losses, each relative to the first,
    has the slope a_t. As long as the worst task improves, tasks that converge slowly weigh more; when it stops to,
    tasks that get worse, against their own past, weigh less.

    window: evaluations that count. warmup: evaluations before weights differ (the one before the first step is one).
    tau: how fast the second part takes over. sharpness: of the self-paced weights.
    Formula: w = T (D R + (1 - D) A), R = softmax_t(T a_t / sum_s |a_s|),
    A = softmax_t(-n a_t / sum over the last n evaluations of |a_t|),
    D = min(1, e softmax over all e evaluations(-tau e b / sum |b|) at the last), b the slope of the largest loss
    Differs: evaluations are those of the training, not one batch in each step. rule="paper" is the above; "code" has D
    without limit, a softmax over T times these weights' shares, and mixes that with 1/10 of equal weights where one is
    below 1/10. rule="selfpaced" is the older w = T softmax(-sharpness x softmax(x)), x_t = T a_t / sum_s |a_s|, a_t the
    slopes of the losses as they are. No weight falls below 1e-9. A validation loss that is not finite counts as the
    last one.

    >>> from allround.training.balancing import Outline
    >>> made = Coba(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> for losses in ([2.0, 2.0], [1.0, 1.8], [0.5, 1.6]):
    ...     made.evaluated(torch.tensor(losses).double())
    >>> made.everyone()
    tensor([0.4781, 1.5219], dtype=torch.float64)
    """

    axes: ClassVar = {"history": (1,), "slopes": (1,), "worst": ()}

    def __init__(
        self,
        outline: Outline,
        *,
        window: int = 10,
        warmup: int = 2,
        tau: float = 5.0,
        rule: str = "paper",
        sharpness: float = 50.0,
    ) -> None:
        super().__init__(outline)
        check_range("coba", "window", window, 2)
        check_range("coba", "warmup", warmup, 2)
        check_range("coba", "tau", tau, 0)
        check_range("coba", "sharpness", sharpness, 0)
        if rule not in RULES:
            raise AllroundError(
                f"balance by 'coba' with rule={rule!r}", "there is no such rule", suggestion(str(rule), RULES)
            )
        self.window, self.warmup, self.tau, self.rule, self.sharpness = window, warmup, tau, rule, sharpness
        nothing = torch.zeros(0, len(outline), dtype=torch.float64)
        self.state.update(
            history=nothing,
            first=nothing.new_ones(len(outline)),
            slopes=nothing.clone(),
            worst=nothing.new_zeros(0),
            weights=nothing.new_ones(len(outline)),
        )

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.state["weights"][task])

    def everyone(self) -> Tensor:
        return self.state["weights"].clone()

    def evaluated(self, losses: Tensor) -> None:
        history, losses = self.state["history"], losses.double()
        losses = torch.where(losses.isfinite(), losses, history[-1] if len(history) else 1.0)
        if not len(history):
            self.state["first"] = losses.clamp_min(1e-12)
        history = torch.cat([history, losses[None]])[-self.window :]
        self.state["history"] = history
        if len(history) < 2:
            return
        relative = history / self.state["first"]
        measured = history if self.rule == "selfpaced" else relative
        self.state["slopes"] = torch.cat([self.state["slopes"], _slope(measured)[None]])[-self.window :]
        self.state["worst"] = torch.cat([self.state["worst"], _slope(relative.amax(1, keepdim=True))])
        # One slope less than evaluations.
        if len(self.state["worst"]) + 1 >= self.warmup:
            shares = self._self_paced() if self.rule == "selfpaced" else self._balanced()
            self.state["weights"] = (len(shares) * shares).clamp_min(1e-9)

    def _self_paced(self) -> Tensor:
        slopes = _relative(self.state["slopes"][-1])
        return (-self.sharpness * slopes * slopes.softmax(0)).softmax(0)

    def _balanced(self) -> Tensor:
        slopes, worst, tasks = self.state["slopes"], self.state["worst"], len(self.outline)
        pace = _relative(slopes[-1]).softmax(0)
        trend = (-_relative(slopes)[-1]).softmax(0)
        share = len(worst) * (-self.tau * _relative(worst)).softmax(0)[-1]
        if self.rule == "paper":
            share = share.clamp_max(1.0)
        shares = share * pace + (1 - share) * trend
        if self.rule == "code":
            shares, least = (tasks * shares).softmax(0), 1 / (10 * tasks)
            shares = shares * (1 - least * tasks) + least if bool((shares < least).any()) else shares
        return shares


def _slope(values: Tensor) -> Tensor:
    """The slopes of straight lines fitted to columns: (n, m) -> (m,)."""
    places = torch.arange(len(values), dtype=torch.float64)
    places = places - places.mean()
    return places @ (values - values.mean(0)) / (places @ places)


def _relative(values: Tensor) -> Tensor:
    """Values divided by the mean of their absolute values along the first axis; zeros stay zeros."""
    return values / values.abs().mean(0, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
