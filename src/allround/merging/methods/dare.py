"""DARE: drop entries of each change at random, and scale up what is left."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.parts import Each, combine, counts, each
from allround.merging.scaling import check_rescale, match_l1
from allround.merging.whole import WHOLE, Whole


@method(
    source="Yu et al., ICML 2024, arXiv:2311.03099, section 3.2",
    block="element",
    exempt={"order": "which entries are dropped depends on a model's place in the list"},
)
def dare(
    base: Tensor,
    deltas: Tensor,
    *,
    keep: Annotated[Each, Search(0.1, 0.3, 0.5, 0.8)] = 0.5,
    scale: Annotated[float, Search(0.2, 0.3, 0.5, 0.7, 1.0)] = 0.3,
    weights: Each = 1.0,
    normalize: bool = False,
    elect: bool = False,
    rescale: str = "share",
    seed: int = 0,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_i w_i t_i; t_i = d_i / keep with a chance of `keep` for each entry, else 0
    Differs: the paper counts what is dropped, 1 - keep. rescale="share" divides by keep as the paper; "l1" gives each
    change the sum of magnitudes that it had, as mergekit; "none" leaves it. `elect` takes only the t_i with the sign of
    their sum (mergekit's dare_ties, which trims at random only); `normalize` divides by the weights; scale is 1 there.

    >>> import torch
    >>> dare(torch.zeros(6), torch.ones(1, 6), scale=1.0)
    tensor([2., 2., 0., 2., 2., 0.])
    """
    check_rescale(rescale, ("none", "share", "l1"))
    counts(keep, 1, len(deltas))
    share = each(keep, deltas)
    # In place on floats, as comparisons to bool are slow: 1 where an entry stays, 0 elsewhere.
    kept = whole.uniform(deltas, seed).lt_(share).mul_(deltas)
    if rescale == "share":
        kept = kept.div_(share)
    elif rescale == "l1":
        kept = match_l1(kept, deltas, whole)
    return base + scale * combine(kept, weights, elect=elect, normalize=normalize)
