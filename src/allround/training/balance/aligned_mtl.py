"""Aligned-MTL: the principal directions of the gradients all get the same strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView, per_task
from allround.training.gramians import check_choice, solve


@method(
    source="Senushkin et al., CVPR 2023, arXiv:2305.19000, Algorithm 1",
    needs=("gramian",),
    by="gradients",
    keeps=("scale",),
)
class AlignedMtl(Balancer):
    """Independent component alignment: the matrix of gradients is replaced by the nearest one with equal singular
    values, of which the preferred mean is taken.

    strength: which singular value they all get: "min", "median" or "rmse" (root of the mean square). preference: how
    much each task counts (list, or mapping by name; equal without).
    Formula: w = s V diag(1 / s_i) V^T p, s_i^2 and V the eigenvalues above rounding and eigenvectors of the Gramian
    Differs: eigenvalues are told from rounding in float32, as far as the gradients themselves can be told apart.

    >>> gramian = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> made = AlignedMtl(Outline(("a", "b"), (2, 2), (10, 10)))
    >>> made.weigh(StepView(torch.arange(2), one, one, one, gramian=gramian))
    tensor([0.2500, 0.5000], dtype=torch.float64)
    """

    def __init__(
        self, outline: Outline, *, strength: str = "min", preference: Mapping[str, float] | Sequence[float] = ()
    ) -> None:
        from torchjd.aggregation import AlignedMTLWeighting

        super().__init__(outline)
        check_choice("aligned_mtl", "strength", strength, ("min", "median", "rmse"))
        self.preference = torch.tensor(per_task(preference, outline, "preference"))
        self.weighting = AlignedMTLWeighting(scale_mode=strength)

    def weigh(self, seen: StepView) -> Tensor:
        assert seen.gramian is not None
        self.weighting.pref_vector = self.preference[seen.tasks] / len(seen)
        return solve(lambda gramian: self.weighting(gramian.float()).double(), seen.gramian)
