"""Covariance alignment: the encoder shall spread the rows of all tasks along the same directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range


@method(
    source="Wu, Zhang & Ré, ICLR 2020, arXiv:2005.00944, equation 5 (covariance similarity score)",
    paper="Understanding and Improving Information Transfer in Multi-Task Learning",
    needs=("features",),
    by="features",
)
class Covariance(Balancer):
    """Equal weights, and a term that is small where the tasks' features have covariances of the same shape.

    strength: of the term. kept: share of the singular values whose directions are compared. relative: divide a score by
    those of the tasks with themselves, so that proportional covariances score 1; without, only features along one
    single line do, and the term pulls them together to one.
    Formula: strength (1 - mean_{t<u} r_tu), r = c_tu / sqrt(c_tt c_uu) or c_tu; c_tu = |B_t^T B_u| / (|B_t| |B_u|),
    B_t B_t^T the best approximation of X_t^T X_t of the rank that keeps `kept`, X_t (n_t, d) the task's features
    Differs: the paper inserts an alignment matrix behind each task's embedding and trains it with the losses, and has
    the score as a measure. One model for all tasks has no place for such matrices: the shared encoder itself is asked
    to align, with the score as penalty. `relative` is not in the paper. The directions kept count as constant.

    >>> made = Covariance(Outline(("a", "b"), (2, 2), (10, 10)), strength=1.0)
    >>> made.penalty([torch.eye(2), torch.tensor([[1.0, 0.0]])], [])
    tensor(0.1591)
    """

    def __init__(self, outline: Outline, *, strength: float = 0.1, kept: float = 0.99, relative: bool = True) -> None:
        super().__init__(outline)
        check_range("covariance", "strength", strength, 0)
        check_range("covariance", "kept", kept, 0, 1, above=True)
        self.strength, self.kept, self.relative = strength, kept, relative

    def weigh(self, seen: StepView) -> Tensor:
        return torch.ones(len(seen), dtype=torch.float64)

    def everyone(self) -> Tensor:
        return torch.ones(len(self.outline), dtype=torch.float64)

    def alone(self, raw: bool) -> bool:
        return False  # the penalty is between tasks

    def penalty(self, features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor | None:
        spread = [self._spread(f) for f in features if float(f.detach().abs().sum()) > 0]
        if len(spread) < 2:
            return None
        own = [_score(s, s) if self.relative else s.new_ones(()) for s in spread]
        pairs = [(t, u) for t in range(len(spread)) for u in range(t)]
        scores = [_score(spread[t], spread[u]) / (own[t] * own[u]).sqrt() for t, u in pairs]
        return self.strength * (1 - torch.stack(scores).mean())

    def _spread(self, features: Tensor) -> Tensor:
        """The task's features along their main directions, of length 1 in all: (n, d)."""
        features = features / features.detach().abs().max()
        with torch.no_grad():
            _, values, directions = torch.linalg.svd(features, full_matrices=False)
            share = values.cumsum(0) / values.sum()
            kept = directions[: int((share < self.kept - 1e-6).sum()) + 1]
        along = features @ kept.T @ kept
        spread: Tensor = along / along.norm()
        return spread


def _score(one: Tensor, other: Tensor) -> Tensor:
    """The covariance similarity score of features of length 1: |X Y^T| = |B_X^T B_Y|."""
    return ((one @ other.T).square().sum() + 1e-12).sqrt()
