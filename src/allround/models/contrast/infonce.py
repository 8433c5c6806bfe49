"""infonce: a relevant candidate against all that are not, by a softmax."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import one_of


@method(
    source="InfoNCE: van den Oord et al., 2018, arXiv:1807.03748; in-batch negatives: Henderson et al., 2017, "
    "arXiv:1705.00652; pinned to MultipleNegativesRankingLoss of sentence-transformers"
)
def infonce(scores: Tensor, grades: Tensor, *, temperature: float = 0.05) -> Tensor:
    """The negative log of the share that a relevant candidate has beside the irrelevant ones.

    Shapes: scores (n, m), grades (n, m) -> ()
    Formula: mean_i mean_{p relevant to i} -log(e^{s_ip / T} / (e^{s_ip / T} + sum_{c not relevant to i} e^{s_ic / T})).
    Other relevant candidates of a query are neither for nor against the one that is looked at. A grade says only
    whether a candidate is relevant.
    temperature: T.

    >>> import torch
    >>> infonce(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), temperature=1.0)  # log(1 + 1 / e)
    tensor(0.3133)
    """
    return one_of(scores, grades, temperature)
