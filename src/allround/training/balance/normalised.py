"""Normalised: whether each task, each row or each word counts the same in a step."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView

CHOICES = ("task", "sample", "token")


@method(
    source="Liu et al., KDD 2024, arXiv:2311.02303, data balance, and the four loss modes of their code",
    paper="MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning",
    needs=("losses",),
    by="losses",
    together=True,
)
class Normalised(Balancer):
    """What the mean over a step's losses is taken over: all tasks, all rows, or all single losses (words, in tasks
    with one target for each word).

    Formula: w_t = 1 for "task", the task's rows in the step for "sample", its single losses for "token"
    Differs: inside a task the mean is always over its single losses; the paper's code can average over each row first.

    >>> from allround.training.balancing import Outline
    >>> made = Normalised(Outline(("a", "b"), (2, 2), (10, 10)), by="token")
    >>> made.weigh(StepView(torch.tensor([0, 1]), torch.ones(2), torch.tensor([8.0, 8.0]), torch.tensor([8.0, 120.0])))
    tensor([  8., 120.], dtype=torch.float64)
    """

    def __init__(self, outline: Outline, *, by: str = "sample") -> None:
        super().__init__(outline)
        if by not in CHOICES:
            raise AllroundError(f"balance by 'normalised' with by={by!r}", "there is no such choice",
                                suggestion(str(by), CHOICES))  # fmt: skip
        self.by = by

    def alone(self, raw: bool) -> bool:
        return raw and self.by != "task"

    def weigh(self, seen: StepView) -> Tensor:
        if self.by == "task":
            return torch.ones(len(seen), dtype=torch.float64)
        return (seen.rows if self.by == "sample" else seen.terms).double()
