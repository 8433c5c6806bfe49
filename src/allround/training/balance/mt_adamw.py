"""MT-AdamW: every task's gradient has the same length, and rare tasks are made up for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView, per_task
from allround.training.learned import check_range


@method(
    source="Li et al., CVPR 2023, arXiv:2211.09808, section 4.4 (task-balanced gradient normalisation)",
    paper="Uni-Perceiver v2: A Generalist Model for Large-Scale Vision and Vision-Language Tasks",
    needs=("norms",),
    by="gradients",
    raw=True,
    keeps=("scale",),
    exempt={"unequal_draws": "rare tasks weigh more by its formula, so that all count the same in the end"},
)
class MtAdamw(Balancer):
    """Each gradient is divided by its norm and by the share of steps that its task is in: made for steps with one task
    each, whose gradients differ in size and come at different rates.

    weights: how much each task shall count (list, or mapping by name; equal without). shares: of the steps that each
    task is in (the same); without, that of the steps so far, this one included. decay: of a running mean of the norm;
    0 takes this step's own, as the paper does.
    Formula: w_t = a_t / (s_t |g_t|), a_t its weight, s_t its share
    Differs: in the paper s_t divides the moments of AdamW, g in the first and g^2 in the second; here it divides g, and
    so its square the second, which makes the steps of rare tasks shorter than theirs. Heads keep their own gradient.

    >>> made = MtAdamw(Outline(("a", "b"), (2, 2), (10, 10)), shares=[0.5, 0.25])
    >>> made.early(0, 1.0, 4.0), made.early(1, 1.0, 4.0)
    (0.5, 1.0)
    """

    def __init__(
        self,
        outline: Outline,
        *,
        weights: Mapping[str, float] | Sequence[float] = (),
        shares: Mapping[str, float] | Sequence[float] = (),
        decay: float = 0.0,
    ) -> None:
        super().__init__(outline)
        check_range("mt_adamw", "decay", decay, 0, 0.999999)
        self.weights = per_task(weights, outline, "weights")
        self.shares = per_task(shares, outline, "shares") if shares else None
        for share in self.shares or ():
            check_range("mt_adamw", "shares", share, 0, 1, above=True)
        self.decay = decay
        self.state["norms"] = torch.zeros(len(outline), dtype=torch.float64)
        self.state["counts"] = torch.zeros(len(outline), dtype=torch.float64)
        self.state["steps"] = torch.zeros((), dtype=torch.float64)

    def alone(self, raw: bool) -> bool:
        return raw

    def early(self, task: int, loss: float, norm: float) -> float:
        norm = self._norm(task, norm)
        if self.shares is not None:
            share = self.shares[task]
        else:
            share = float((self.state["counts"][task] + 1) / (self.state["steps"] + 1))
        return self.weights[task] / share / (norm if norm > 0 else 1.0)

    def _norm(self, task: int, norm: float) -> float:
        """The running mean with this step's norm in it."""
        before = float(self.state["norms"][task])
        return self.decay * before + (1 - self.decay) * norm if before > 0 else norm

    def learn(self, seen: StepView) -> None:
        assert seen.norms is not None
        pairs = zip(seen.tasks.tolist(), seen.norms.tolist(), strict=True)
        norms = torch.tensor([self._norm(task, norm) for task, norm in pairs], dtype=torch.float64)
        self.state["norms"] = self.state["norms"].index_copy(0, seen.tasks, norms)
        self.state["counts"] = self.state["counts"].index_add(0, seen.tasks, torch.ones_like(norms))
        self.state["steps"] = self.state["steps"] + 1
