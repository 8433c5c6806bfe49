"""RLW: weights drawn anew in each step."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer


@method(
    source="Lin et al., TMLR 2022, arXiv:2111.10603, Algorithm 2 (normal distribution)",
    by="losses",
    exempt={"permutation_invariant": "weights are drawn by the number of the task"},
)
class Rlw(Balancer):
    """Each step's weights are a softmax of normal random numbers: the test that a balancer should pass is to beat it.

    Formula: w = T softmax(z), z ~ N(0, I)
    Differs: of all tasks, T times the paper's weights, which sum to 1.

    >>> from allround.training.balancing import Outline
    >>> _ = torch.manual_seed(0)
    >>> Rlw(Outline(("a", "b"), (2, 2), (10, 10))).everyone()
    tensor([1.7246, 0.2754], dtype=torch.float64)
    """

    def early(self, task: int, loss: float, norm: float) -> float:
        return float(self.everyone()[task])

    def everyone(self) -> Tensor:
        # The generator stays where it is: all that is asked in one step has the same answer.
        with torch.random.fork_rng(devices=[]):
            drawn = torch.randn(len(self.outline), dtype=torch.float64)
        return len(drawn) * drawn.softmax(0)
