"""Model Stock: go from the base to the mean of the models, as far as the angle between the changes tells."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.merging.angles import gram
from allround.merging.whole import WHOLE, Whole


@method(source="Jang et al., Model Stock, ECCV 2024, arXiv:2403.19522", block="row", models=(2, None))
def model_stock(base: Tensor, deltas: Tensor, *, filter_wise: bool = False, whole: Whole = WHOLE) -> Tensor:
    """Merge k changes of one weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + r mean_i d_i, r = k c / (1 + (k - 1) c), c the mean cosine of two changes: of the whole weight, or,
    with `filter_wise`, of each vector along its last dimension.
    Differs: the paper gives r for two changes, and for more with one angle between all; the mean of the cosines is
    mergekit's. As there, changes whose lengths multiply to less than 1e-6 count as wider apart than they are, and
    where 1 + (k - 1) c is zero the base stays.

    >>> import torch
    >>> model_stock(torch.zeros(2), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    tensor([0.8284, 0.4142])
    """
    count = len(deltas)
    if count == 1:
        return base.clone()
    if filter_wise:
        vectors = deltas if deltas.ndim > 2 else deltas.reshape(count, 1, -1)
        products = torch.einsum("i...c,j...c->...ij", vectors, vectors).double()
    else:
        products = gram(deltas, whole)
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    pairs = (lengths[..., None] * lengths[..., None, :]).clamp_min(1e-6)
    cosines = (products / pairs).clamp(-1, 1)
    own = cosines.diagonal(dim1=-2, dim2=-1).sum(-1)
    cosine = (cosines.sum((-2, -1)) - own) / (count * (count - 1))
    divisor = 1 + (count - 1) * cosine
    ratio = torch.where(divisor.abs() < 1e-6, 0, count * cosine / divisor).to(base)
    if filter_wise and base.ndim > 1:
        ratio = ratio[..., None]
    return base + ratio.reshape(ratio.shape if base.ndim > 1 else ()) * deltas.mean(0)
