"""codiemb: the k-th relevant candidate of each query against those of other queries, and against all negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from allround.core.registry import method
from allround.models.contrasting import log_sum, logits_of, row_mean


@method(
    source="CoDiEmb, arXiv:2508.11442; checked against ContrastiveLoss in training/CoDiEmb/train/loss.py of "
    "TencentCloudADP/youtu-embedding at d271351, whose scripts give the temperature",
    exempt={"order of candidates": "relevant candidates of a query are numbered as they stand"},
)
def codiemb(scores: Tensor, grades: Tensor, *, temperature: float = 0.02) -> Tensor:
    """`infonce` in turns: in turn k a query has its k-th relevant candidate, and so has every other.

    Shapes: scores (n, m), grades (n, m) -> ()
    Formula: as `infonce`; but the k-th relevant candidate of a query is compared with the k-th ones of other queries,
    and with the candidates that are relevant to none. With one relevant candidate a query it is `infonce`.
    temperature: T.
    Differs: the paper draws three relevant candidates and eight negatives for each query; here the batch says how many.

    >>> codiemb(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), temperature=1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    logits = logits_of(scores, temperature)
    relevant = grades > 0
    number = relevant.cumsum(1).masked_fill(~relevant, 0)
    nobody = ~relevant.any(0)
    losses = logits * 0
    for turn in range(1, int(number.max()) + 1):
        here = number == turn
        others = log_sum(logits, (grades == 0) & (nobody | here.any(0))).unsqueeze(1)
        losses = torch.where(here, softplus(others - logits), losses)
    return row_mean(losses, relevant)
