"""Consensus merging: add the changes up, and drop every weight that fewer than two tasks need."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.parts import Each, combine, each, trim_at
from allround.merging.whole import WHOLE, Whole


@method(
    source="Wang et al., ICML 2024, arXiv:2405.07813, sections 4 and 5",
    paper="Localizing Task Information for Improved Model Merging and Compression",
    block="element",
    models=(2, None),
)
def consensus(
    base: Tensor,
    deltas: Tensor,
    *,
    threshold: Annotated[Each, Search(0.2, 0.4, 0.6)] = 0.4,
    votes: Annotated[int, Search(1, 2)] = 2,
    scale: Annotated[float, Search(0.2, 0.3, 0.5, 0.7, 1.0)] = 0.3,
    keep: Each = 1.0,
    elect: bool = False,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * m * s; s = sum_i t_i, t_i = d_i with all but its `keep` largest entries set to zero; with
    `elect` only the t_i that have the sign of the sum. m = 1 where at least `votes` tasks have
    |d_i| >= threshold_i * |s - d_i|, else 0
    Differs: the released code asks for more than, not for as much as; it finds a threshold for each task on
    validation data, here they are given. TIES's vector in the code is elect=True, keep=0.2 (and one entry), trimmed
    over the whole model (`scope="model"` does). votes=1 drops what no task needs, votes=0 nothing.

    >>> import torch
    >>> consensus(torch.zeros(3), torch.tensor([[1.0, 2.0, 0.1], [1.0, -2.0, 2.0]]), scale=1.0)
    tensor([2., 0., 0.])
    """
    if votes < 0:
        raise AllroundError(f"keep what {votes} models need", "that is no number of models", "give one such as 2")
    total = combine(deltas, 1.0, elect=elect, normalize=False, cut=trim_at(deltas, keep, base, whole))
    # In place on floats, as comparisons to bool are slow: 1 where a task votes for a weight, 0 elsewhere.
    lacking = (total - deltas).abs_().mul_(each(threshold, deltas)).sub_(deltas.abs()).le_(0)
    return base + lacking.sum(0).ge_(votes).mul_(total).mul_(scale)
