"""FedNova: the mean of the changes, each divided by how long its model was trained."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.angles import mix
from allround.merging.parts import Each, each
from allround.merging.whole import WHOLE, Whole


@method(
    source="FedNova: Wang et al., NeurIPS 2020, arXiv:2007.07481; for merging Tao et al., arXiv:2411.18607",
    paper="Task Arithmetic Through The Lens Of One-Shot Federated Learning",
    block="element",
    scope="model",
)
def fednova(
    base: Tensor,
    deltas: Tensor,
    *,
    steps: Each = 0.0,
    scale: Annotated[float, Search(0.5, 0.7, 1.0, 1.4, 2.0)] = 1.0,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * mean_i (n / n_i) d_i, where n_i is how many steps model i was trained, and n their mean.
    steps: of each model. Where they are not given (0), the length of each change over the whole model takes their
    place: then all have the same length, the mean one. A model without a change counts as one of that length.
    Differs: the authors give the steps; lengths are ours, since steps at unequal rates are no measure either. FedNova
    itself corrects for momentum and decay too, which the authors leave out as well.

    >>> fednova(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]), steps=[10, 30])
    tensor([1., 1.])
    >>> fednova(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    tensor([1., 1.])
    """
    amounts = each(steps, deltas).flatten().double()
    if not (bool((amounts > 0).all()) or bool((amounts == 0).all())):
        raise AllroundError(
            f"divide changes by {amounts.tolist()} steps",
            "not all of them are above zero",
            "give the steps of every model, or of none",
        )
    if bool((amounts == 0).all()):
        norms = torch.linalg.vector_norm(deltas.reshape(len(deltas), -1), dim=1).double()
        amounts = whole.sum(norms.square()).sqrt()
    factors = torch.where(amounts > 0, amounts.mean() / amounts.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
    return base + mix(scale * factors / len(deltas), deltas)
