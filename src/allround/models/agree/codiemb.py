"""codiemb: correlation, order and ranks of a batch together."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.agreeing import distance, gap_ranking, rank_divergence


@method(
    source="CoDiEmb, arXiv:2508.11442; checked against TrainModel.forward in training/CoDiEmb/train/model.py and "
    "loss.py of TencentCloudADP/youtu-embedding at d271351"
)
def codiemb(
    cosines: Tensor,
    targets: Tensor,
    *,
    pearson: float = 2.0,
    gaps: float = 0.5,
    rank_kl: float = 5.0,
    temperature: float = 0.05,
) -> Tensor:
    """The weighted sum of the losses `pearson`, `gaps` and `rank_kl`.

    Shapes: cosines (n,), targets (n,) -> ()
    Formula: pearson * L_pearson + gaps * L_gaps + rank_kl * L_rank_kl. pearson, gaps, rank_kl: the weights.
    temperature: of `gaps` and `rank_kl`.
    Differs: without the term of a middle layer, which the code has as an option.

    >>> import torch
    >>> codiemb(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), temperature=1.0)  # half of log(1 + 1 / e)
    tensor(0.1566)
    """
    found = pearson * distance(cosines, targets) + gaps * gap_ranking(cosines, targets, temperature)
    return found + rank_kl * rank_divergence(cosines, targets, temperature)
