"""Rep-MTL: each place of the features shall matter to few tasks, and a row's tasks shall agree on directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.training.balancing import Balancer, Outline, StepView
from allround.training.learned import check_range


@method(
    source="Wang et al., ICCV 2025, arXiv:2507.21049, equations 3 to 10",
    paper="Rep-MTL: Unleashing the Power of Representation-level Task Saliency for Multi-Task Learning",
    needs=("features",),
    by="features",
    second_order=True,
)
class RepMtl(Balancer):
    """Equal weights, and two terms of the saliencies s_t = dL_t / dz, the gradients of the losses by the features.

    tsr: how much the entropy counts with which a row matters to the tasks (task-specific saliency regulation). csa:
    how much it counts that each task's affinities s s^T are those of its row, and those of rows differ (cross-task
    saliency alignment). temperature: of the latter.
    Formula: tsr mean_b(-sum_t p_bt log p_bt) + csa mean_bt(log sum_{c != b} exp(cos(A_b, A_c) / temperature) -
    cos(A_b, s_bt s_bt^T) / temperature), p_bt = |mean_i s_bti| / sum_u |mean_i s_bui|, A_b = sum_t s_bt s_bt^T
    Differs: features are vectors, so a row has one place. Equation 9 leaves the task open, which is averaged here, as
    the paper's figure 2 has it. As everywhere in the trainer, the sum of losses and terms is divided by the number of
    tasks. Where tasks have rows of their own, nothing is known of one row for two tasks: the entropy is that of each
    feature number, of |mean_b s_bti|, and there is no alignment. Neither is there for a single row. The temperature is
    not given in the paper.

    >>> made = RepMtl(Outline(("a", "b"), (2, 2), (10, 10)), csa=0.0, tsr=1.0)
    >>> rows = torch.tensor([[1.0, 2.0]])
    >>> made.penalty([rows, rows], [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])])
    tensor(0.6931)
    """

    def __init__(self, outline: Outline, *, tsr: float = 0.9, csa: float = 0.9, temperature: float = 0.5) -> None:
        super().__init__(outline)
        check_range("rep_mtl", "tsr", tsr, 0)
        check_range("rep_mtl", "csa", csa, 0)
        check_range("rep_mtl", "temperature", temperature, 0, above=True)
        self.tsr, self.csa, self.temperature = tsr, csa, temperature

    def weigh(self, seen: StepView) -> Tensor:
        return torch.ones(len(seen), dtype=torch.float64)

    def everyone(self) -> Tensor:
        return torch.ones(len(self.outline), dtype=torch.float64)

    def alone(self, raw: bool) -> bool:
        return False  # the penalty is between tasks

    def penalty(self, features: Sequence[Tensor], saliencies: Sequence[Tensor]) -> Tensor | None:
        if len(features) < 2:
            return None
        # Both terms are the same for all saliencies times a number; this one keeps squares within their range.
        size = max(float(s.detach().abs().max()) for s in saliencies if s.numel()) if features[0].numel() else 0.0
        if not size:
            return None
        scaled = [s / size for s in saliencies]
        first = features[0].detach()
        if not all(f.shape == first.shape and torch.equal(f.detach(), first) for f in features[1:]):
            return self.tsr * _entropy(torch.stack([s.mean(0) for s in scaled], 1))
        together = torch.stack(scaled, 1)
        total = self.tsr * _entropy(together.mean(2))
        return total + self.csa * _misalignment(together, self.temperature)


def _entropy(saliencies: Tensor) -> Tensor:
    """The mean over places of the entropy of the tasks' shares in their saliency. (places, tasks) -> ()"""
    sizes = saliencies.abs()
    sizes = sizes[sizes.detach().sum(1) > 1e-12]
    if not len(sizes):
        return saliencies.sum() * 0
    shares = sizes / sizes.sum(1, keepdim=True)
    return -(shares * shares.clamp_min(1e-12).log()).sum(1).mean()


def _misalignment(saliencies: Tensor, temperature: float) -> Tensor:
    """How far the tasks' affinities are from their row's, and rows' from each other's. (rows, tasks, d) -> ()"""
    saliencies = saliencies[saliencies.detach().abs().sum((1, 2)) > 1e-12]
    rows, tasks, width = saliencies.shape
    if rows < 2:
        return saliencies.sum() * 0
    # <u u^T, v v^T> = (u v)^2: no d x d matrix is ever made.
    flat = saliencies.reshape(rows * tasks, width)
    products = (flat @ flat.T).square().reshape(rows, tasks, rows, tasks)
    anchors = products.sum((1, 3))
    lengths = anchors.diagonal().sqrt()
    between = anchors / torch.outer(lengths, lengths) / temperature
    own = torch.diagonal(products, dim1=0, dim2=2)  # (tasks, tasks, rows)
    squares = torch.diagonal(own).sqrt()  # (rows, tasks): |s s^T| = |s|^2
    positive = own.sum(0).T / (lengths[:, None] * squares + 1e-12) / temperature
    others = between.masked_fill(torch.eye(rows, dtype=torch.bool, device=between.device), -torch.inf)
    return (others.logsumexp(1)[:, None] - positive).mean()
