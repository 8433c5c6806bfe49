"""Muppet: losses divided by the logarithm of the number of outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer


@method(
    source="Aghajanyan et al., EMNLP 2021, arXiv:2101.11038, loss scaling",
    paper="Muppet: Massive Multi-task Representations with Pre-Finetuning",
    by="losses",
)
class Muppet(Balancer):
    """A task weighs less the more outputs it chooses from, so that all losses are about 1 before training.

    Formula: w_t = 1 / log(n_t), n_t outputs of the task's head, at least 2
    Differs: a head with one output (regression, retrieval) counts as two, where the paper has no such task. A task
    with several labels for a row counts its labels, though each of them alone is a choice of two.

    >>> from allround.training.balancing import Outline
    >>> Muppet(Outline(("a", "b"), (2, 4), (10, 10))).everyone()
    tensor([1.4427, 0.7213], dtype=torch.float64)
    """

    def early(self, task: int, loss: float, norm: float) -> float:
        return 1 / math.log(max(2, self.outline.outputs[task]))

    def everyone(self) -> Tensor:
        return torch.tensor([self.early(t, 0.0, 0.0) for t in range(len(self.outline))], dtype=torch.float64)
