"""DELLA: drop entries of each change at random, the smaller ones of each row more often."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging import kernels
from allround.merging.parts import Each, combine, each
from allround.merging.scaling import check_rescale, match_l1
from allround.merging.whole import WHOLE, Whole


@method(
    source="Deep et al., 2024, arXiv:2406.11617, section 3",
    block="row",
    exempt={"order": "which entries are dropped depends on a model's place in the list"},
)
def della(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[Each, Search(0.3, 0.5, 0.7)] = 0.5,
    spread: Each = 0.15,
    scale: Annotated[float, Search(0.4, 0.7, 1.0, 1.4, 2.0)] = 1.0,
    weights: Each = 1.0,
    normalize: bool = True,
    elect: bool = True,
    rescale: str = "share",
    seed: int = 0,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_A w_i t_i / sum_A w_i over the models A whose w_i t_i has the sign of sum_j w_j t_j;
    t_i = d_i / p_i with a chance of p_i for each entry, else 0; p_i grows evenly with the rank of |d_i| in its row,
    from keep - spread at the smallest to keep + spread at the largest
    Differs: entries whose magnitudes are nearly equal share their mean rank (under 2 % apart in the shortest rows, as
    little as 0.1 % in long ones), and so do all that are 65,000 times smaller than the row's largest. A row is
    all that belongs to one index of the first dimension (mergekit ranks along the second one alone), and a weight of
    one dimension is one row. The paper's epsilon is 2 * spread, mergekit's is spread. rescale="share" divides by p_i
    as the paper; "l1" gives each change the sum of magnitudes that it had, as mergekit; "none" leaves it. keep=1 keeps
    all. elect=False (mergekit's della_linear, with normalize=False) adds up all.

    >>> import torch
    >>> della(torch.zeros(1, 4), torch.tensor([[[0.1, -3.0, 0.2, 2.0]]]), rescale="none")
    tensor([[ 0.1000, -3.0000,  0.0000,  2.0000]])
    """
    check_rescale(rescale, ("none", "share", "l1"))
    shares, spreads = each(keep, deltas).flatten().tolist(), each(spread, deltas).flatten().tolist()
    for share, around in zip(shares, spreads, strict=True):
        if share != 1 and not (around >= 0 and share - around > 0 and share + around <= 1):
            raise AllroundError(
                f"keep {share:g} of each change, give or take {around:g} by rank",
                "some entries would be kept with a chance that is not between 0 and 1",
                "give such as keep 0.5 and spread 0.15",
            )
    least = [1.0 if s == 1 else s - e for s, e in zip(shares, spreads, strict=True)]
    most = [1.0 if s == 1 else s + e for s, e in zip(shares, spreads, strict=True)]
    kept = kernels.keep_by_rank(deltas, whole.uniform(deltas, seed), least, most, inverse=rescale == "share")
    kept = kept.mul_(deltas)
    if rescale == "l1":
        kept = match_l1(kept, deltas, whole)
    return base + scale * combine(kept, weights, elect=elect, normalize=normalize)
