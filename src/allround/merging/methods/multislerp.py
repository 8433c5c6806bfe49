"""Multi-SLERP: the mean direction of the changes, with their mean length."""

from __future__ import annotations

from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.merging.angles import gram, mix
from allround.merging.parts import Each, each
from allround.merging.whole import WHOLE, Whole


@method(
    source="Goddard, goddard.blog/posts/multislerp-wow-what-a-cool-idea, 2025; mergekit 0.1.5, multislerp",
    base="optional",
    block="element",
)
def multislerp(
    base: Tensor,
    deltas: Tensor,
    *,
    weights: Each = 1.0,
    normalize: bool = True,
    eps: float = 1e-8,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight; without a base, k weights.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + (sum_i w_i |d_i|) m / |m|, m = sum_i w_i d_i / (|d_i| + eps); `normalize` divides the weights by
    their sum (unless they cancel). One change alone is taken as it is.
    Differs: mergekit goes on from the mean direction by the weighted sum of the changes in the tangent space there.
    That sum is zero by the choice of m, so the step is left out. Where the directions cancel (|m| below eps) the
    weighted mean of the changes is taken; mergekit does so for two, and fails for more.

    >>> import torch
    >>> multislerp(torch.zeros(2), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([1.4142, 1.4142])
    """
    if eps <= 0:
        raise AllroundError(f"merge with eps {eps}", "it must be larger than zero", "leave it at 1e-8")
    if len(deltas) == 1:
        return base + deltas[0]
    products = gram(deltas, whole)
    column = each(weights, deltas).flatten().double().cpu()
    total = float(column.sum())
    if normalize and abs(total) >= 1e-8:
        column = column / total
    lengths = products.diagonal().sqrt()
    factors = column / (lengths + eps)
    mean = float((factors @ products @ factors).clamp_min(0).sqrt())
    if mean < eps:
        return base + mix(column, deltas)
    return base + mix(factors * float(column @ lengths) / mean, deltas)
