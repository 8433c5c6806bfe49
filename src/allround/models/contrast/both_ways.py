"""both_ways: candidates for queries, and queries for candidates."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.models.contrasting import one_of


@method(
    source="both directions with a partition each: Günther et al., 2023, arXiv:2310.19923; pinned to "
    "MultipleNegativesSymmetricRankingLoss of sentence-transformers"
)
def both_ways(scores: Tensor, grades: Tensor, *, temperature: float = 0.05) -> Tensor:
    """Half of `infonce`, and half of `infonce` with queries and candidates exchanged.

    Shapes: scores (n, m), grades (n, m) -> ()
    Formula: (L(s, g) + L(s^T, g^T)) / 2. A candidate that is relevant to no query asks for none.
    temperature: of both.

    >>> import torch
    >>> both_ways(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), temperature=1.0)  # nothing to tell apart
    tensor(0.1566)
    """
    return (one_of(scores, grades, temperature) + one_of(scores.T, grades.T, temperature)) / 2
