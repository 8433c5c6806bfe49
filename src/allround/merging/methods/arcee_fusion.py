"""Arcee Fusion: take from a model only the changes that stand out."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.merging.whole import WHOLE, Whole


@method(source="mergekit 0.1.5, arcee_fusion", block="row", models=(1, 1))
def arcee_fusion(base: Tensor, deltas: Tensor, *, whole: Whole = WHOLE) -> Tensor:
    """Merge one model into the base.

    Shapes: base (*s), deltas (1, *s) -> merged (*s)
    Formula: base + d where the importance is at least median + 1.5 (third quartile - first quartile) of all, else the
    base. The importance is |d| KL(softmax(tuned) || softmax(base)), the softmax along the last dimension.
    Differs: the quantiles are exact; mergekit takes those of a random million in larger weights. The divergence is
    computed such that it is never negative; in mergekit it is so by rounding where a model is near the base. A weight
    of one dimension has one divergence for all its entries, which changes nothing, so |d| is taken there.

    >>> import torch
    >>> arcee_fusion(torch.zeros(5), torch.tensor([[0.1, 0.2, 0.1, 2.0, 0.1]]))
    tensor([0., 0., 0., 2., 0.])
    """
    change = deltas[0]
    importance = change.abs()
    if base.ndim > 1:
        importance.mul_(_divergence(base + change, base))
    size = whole.size(base)
    # In ascending order they are at these places of size - 1.
    counts = [[size - int(place * (size - 1))] for place in (0.25, 0.5, 0.75)]
    first, median, third = whole.cut(importance[None], counts).flatten().tolist()
    threshold = median + 1.5 * (third - first)
    return torch.where(importance >= threshold, base + change, base)


def _divergence(tuned: Tensor, base: Tensor) -> Tensor:
    """KL(p || q) of the softmaxes along the last dimension, with 1e-8 added to each: (*s) -> (*s[:-1], 1).

    With u = (p - q) / q it is the sum of q ((1 + u) log(1 + u) - u), since p and q both sum to one.
    """
    expected = torch.softmax(base, -1)
    apart = torch.softmax(tuned, -1).sub_(expected)
    expected += 1e-8
    apart /= expected
    terms = torch.log1p(apart).mul_(apart + 1).sub_(apart)
    return terms.mul_(expected).sum(-1, keepdim=True).clamp_min_(0)
