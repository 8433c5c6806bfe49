"""IMTL-G: the step has the same projection on every task's gradient."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import solve


@method(
    source="Liu et al., ICLR 2021, openreview IMPnRXEWpvr, section 3.1 (gradient balance); for dependent gradients "
    "Quinton & Rey, arXiv:2406.16232, appendix",
    needs=("gramian",),
    by="gradients",
    keeps=("scale",),
)
class ImtlG(Balancer):
    """Impartial multi-task learning: weights, some perhaps negative, with which the step g has equal cosines with all
    gradients.

    Formula: w = v / sum(v), v = G^+ n, G the Gramian and n the norms of the gradients
    Differs: the paper inverts, which fails for dependent gradients; the pseudo-inverse (torchjd) does not. It is taken
    in float32, which is as far as the gradients themselves can be told apart.

    >>> import torch
    >>> gramian = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> ImtlG(Outline(("a", "b"), (2, 2), (10, 10))).weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.3333, 0.6667], dtype=torch.float64)
    """

    def __init__(self, outline: Outline) -> None:
        from torchjd.aggregation import IMTLGWeighting

        super().__init__(outline)
        self.weighting = IMTLGWeighting()

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        return solve(lambda gramian: self.weighting(gramian.float()).double(), seen.gramian)
