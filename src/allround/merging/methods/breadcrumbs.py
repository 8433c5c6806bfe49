"""Breadcrumbs: of each change neither the largest outliers nor the smallest entries, then their sum."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.parts import Each, combine, keep_from
from allround.merging.scaling import check_rescale, match_l1
from allround.merging.whole import WHOLE, Whole


@method(
    source="Davari and Belilovsky, ECCV 2024, arXiv:2312.06795, section 3",
    paper="Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
    block="element",
)
def breadcrumbs(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[Each, Search(0.1, 0.2, 0.4, 0.8)] = 0.15,
    outliers: Annotated[Each, Search(0.005, 0.01, 0.03)] = 0.01,
    scale: Annotated[float, Search(0.2, 0.3, 0.5, 0.7, 1.0)] = 0.3,
    weights: Each = 1.0,
    normalize: bool = False,
    elect: bool = False,
    rescale: str = "none",
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_i w_i t_i; t_i = d_i without the share `outliers` of its largest entries, and of the
    rest only the largest: as many as the share `keep` of all
    Differs: the paper counts the smallest entries that go, this (as mergekit) those that stay. Within a tensor, as in
    the paper; the authors' code takes each row of the last dimension by itself. All entries as large as the largest or
    the smallest that stays are kept. Where keep and outliers leave nothing to spare, fewer outliers go. As in mergekit:
    `elect` (its breadcrumbs_ties) takes only the t_i with the sign of their sum, `normalize` divides by the weights,
    rescale="l1" gives each change the sum of magnitudes that it had; scale is 1 there.

    >>> breadcrumbs(torch.zeros(4), torch.tensor([[9.0, -2.0, 1.0, 0.1]]), keep=0.5, outliers=0.25, scale=1.0)
    tensor([ 0., -2.,  1.,  0.])
    """
    check_rescale(rescale, ("none", "l1"))
    size = whole.size(base)
    largest, smallest = _places(keep, outliers, size, len(deltas))
    if all(one == 1 for one in largest) and all(one == size for one in smallest):
        kept = deltas
    else:
        high, low = whole.cut(deltas, [largest, smallest])
        kept = keep_from(deltas, low)
        for row, change, number in zip(kept, deltas, high.tolist(), strict=True):
            row.sub_(torch.hardshrink(change, number))
        if rescale == "l1":
            kept = match_l1(kept, deltas, whole)
    return base + scale * combine(kept, weights, elect=elect, normalize=normalize)


def _places(keep: Each, outliers: Each, size: int, models: int) -> tuple[list[int], list[int]]:
    """The places, counted from the largest entry as 1, of the first and of the last that stay, for each model."""
    shares = [keep] * models if isinstance(keep, (int, float)) else list(keep)
    tops = [outliers] * models if isinstance(outliers, (int, float)) else list(outliers)
    first, last = [], []
    for share, top in zip(shares, tops, strict=True):
        for value, what, least in ((share, "keep", share > 0), (top, "drop as outliers", top >= 0)):
            if not (least and value <= 1):
                raise AllroundError(
                    f"{what} {value} of each change", "it is not between 0 and 1", "give one such as 0.1"
                )
        count = max(1, int(share * size))
        above = 0 if share == 1 else min(int(top * size), size - count)
        first.append(above + 1)
        last.append(above + count)
    return first, last
