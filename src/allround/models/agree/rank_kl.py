"""rank_kl: the distribution of cosines over a batch beside that of the targets' ranks."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.agreeing import rank_divergence


@method(
    source="CoDiEmb, arXiv:2508.11442; checked against RankKLDivergenceLoss in training/CoDiEmb/train/loss.py of "
    "TencentCloudADP/youtu-embedding at d271351"
)
def rank_kl(cosines: Tensor, targets: Tensor, *, temperature: float = 0.05) -> Tensor:
    """KL of two softmaxes over the pairs of a batch, divided by their number.

    Shapes: cosines (n,), targets (n,) -> ()
    Formula: sum_i p_i log(p_i / q_i) / n, p = softmax((n - 1 - r) / (n - 1) / T), q = softmax(s / T); r counts from 0
    for the highest target, and equal targets share their mean rank.
    temperature: T.

    >>> import torch
    >>> rank_kl(torch.tensor([0.0, 0.0]), torch.tensor([5.0, 2.0]))  # log(2) / 2
    tensor(0.3466)
    """
    return rank_divergence(cosines, targets, temperature)
