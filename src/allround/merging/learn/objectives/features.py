"""Features: how far the merged encoder's features are from the specialist's; needs no heads."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.merging.learn.objective import Response
from allround.tasks.definition import Definition


@method(
    source="representation surgery: Yang et al., ICML 2024, arXiv:2402.02705, equation 3",
    needs=("specialist",),
    reads="features",
)
def features(
    merged: Response, specialist: Response, targets: Tensor, definition: Definition, *, distance: str = "l1"
) -> Tensor:
    """Mean distance of features.

    Shapes: features (n, d) -> ()
    Formula: "l1" is the mean of |f - g|, "l2" of (f - g)^2 over all entries; "cosine" is 1 - cos(f, g) over rows

    >>> import torch
    >>> task = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> features(Response(torch.ones(2, 2)), Response(torch.zeros(2, 2)), torch.empty(0), task).item()
    1.0
    """
    known = ("l1", "l2", "cosine")
    if distance not in known:
        raise AllroundError(f"measure by '{distance}'", "there is no such distance", suggestion(distance, known))
    mine, other = merged.features.float(), specialist.features.float()
    if distance == "cosine":
        return (1 - F.cosine_similarity(mine, other)).mean()
    return F.l1_loss(mine, other) if distance == "l1" else F.mse_loss(mine, other)
