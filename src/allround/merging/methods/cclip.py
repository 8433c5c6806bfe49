"""CCLIP: cut every model's change to one length, so that none outweighs the others, and add them up."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.angles import mix
from allround.merging.whole import WHOLE, Whole


@method(
    source="clipping: Karimireddy et al., ICML 2021, arXiv:2012.10333; for merging Tao et al., arXiv:2411.18607",
    paper="Task Arithmetic Through The Lens Of One-Shot Federated Learning",
    block="element",
    scope="model",
)
def cclip(
    base: Tensor,
    deltas: Tensor,
    *,
    radius: Annotated[float, Search(0.0, 0.5)] = 0.0,
    scale: Annotated[float, Search(0.1, 0.2, 0.3, 0.5, 0.7, 1.0)] = 0.3,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * sum_i min(1, r / |d_i|) d_i, lengths over the whole model; r lies between the length of the
    shortest change (`radius` 0; a model without a change does not count) and of the longest (1, where nothing is cut)
    Differs: nothing; the authors try lengths r between the two. Clipped once and about the base, as they do. With
    `scope="tensor"` each tensor has lengths of its own.

    >>> cclip(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]), scale=1.0)
    tensor([1., 1.])
    """
    if not 0 <= radius <= 1:
        raise AllroundError(f"clip to the radius {radius}", "it is not between 0 and 1", "give one such as 0.0")
    norms = torch.linalg.vector_norm(deltas.reshape(len(deltas), -1), dim=1).double()
    lengths = whole.sum(norms.square()).sqrt()
    longest = lengths.max()
    least = torch.where(lengths > 0, lengths, longest).min()
    most = least + radius * (longest - least)
    factors = torch.where(lengths > most, most / lengths.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
    return base + mix(scale * factors, deltas)
