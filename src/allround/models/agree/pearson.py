"""pearson: the correlation of a batch."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.agreeing import distance


@method(
    source="CoDiEmb, arXiv:2508.11442; checked against PearsonCorrelationLoss in training/CoDiEmb/train/loss.py of "
    "TencentCloudADP/youtu-embedding at d271351"
)
def pearson(cosines: Tensor, targets: Tensor) -> Tensor:
    """One minus Pearson's correlation of cosines and targets over the batch; 0 where one of them does not vary.

    Shapes: cosines (n,), targets (n,) -> ()
    Formula: 1 - cov(s, t) / (sd(s) sd(t)).

    >>> import torch
    >>> pearson(torch.tensor([0.3, 0.2, 0.1]), torch.tensor([1.0, 2.0, 3.0]))
    tensor(2.)
    """
    return distance(cosines, targets)
