"""GradVac: gradients are turned towards each other until they are as similar as they used to be."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.gramians import solve_nonzero
from allround.training.learned import check_range


@method(
    source="Wang et al., ICLR 2021, arXiv:2010.05874, equation 2 and Algorithm 1 (whole model)",
    needs=("gramian",),
    by="gradients",
    keeps=("scale",),
    exempt={"permutation_invariant": "the order in which a gradient meets the others is drawn"},
)
class Gradvac(Balancer):
    """Gradient vaccine: as PCGrad, but the cosine that two gradients must have is their own running mean, not 0.

    decay: how much of the running mean a new cosine replaces.
    Formula: w = sum_i c_i, c_i the weights of h_i: from h_i = g_i, for each j != i in drawn order, with
    q = cos(h_i, g_j) below its mean m_ij, h_i <- h_i + g_j |h_i| (m sqrt(1 - q^2) - q sqrt(1 - m^2)) /
    (|g_j| sqrt(1 - m^2)); then m_ij <- (1 - decay) m_ij + decay q
    Differs: one cosine for the whole shared model; the paper has one for each layer. A task whose gradient is zero is
    left out of the step.

    >>> gramian = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> made = Gradvac(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> made.weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([1.2500, 2.0000], dtype=torch.float64)
    >>> made.state["cosines"]
    tensor([[ 0.0000, -0.2500],
            [-0.2500,  0.0000]], dtype=torch.float64)
    """

    axes: ClassVar = {"cosines": (0, 1)}

    def __init__(self, outline: Outline, *, decay: float = 0.5) -> None:
        from torchjd.aggregation import GradVacWeighting

        super().__init__(outline)
        check_range("gradvac", "decay", decay, 0, 1)
        self.weighting = GradVacWeighting(beta=decay)
        self.state["cosines"] = torch.zeros(len(outline), len(outline), dtype=torch.float64)

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None

        def vaccinate(gramian: Tensor, there: Tensor) -> Tensor:
            tasks = seen.tasks[there]
            pairs = (tasks[:, None], tasks[None, :])
            # torchjd's own memory goes by row; ours by task.
            self.weighting._phi_t = self.state["cosines"][pairs]
            self.weighting._state_key = (len(tasks), gramian.dtype)
            weights: Tensor = self.weighting(gramian)
            self.state["cosines"] = self.state["cosines"].index_put(pairs, self.weighting._phi_t)
            return weights

        return solve_nonzero(vaccinate, seen.gramian)
