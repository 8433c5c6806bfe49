"""NuSLERP: the weighted mean of two changes, taken on the arc between their directions."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.merging.angles import gram
from allround.merging.parts import Each, each
from allround.merging.whole import WHOLE, Whole


@method(source="mergekit 0.1.5, nuslerp", base="optional", block="row", models=(2, 2))
def nuslerp(
    base: Tensor,
    deltas: Tensor,
    *,
    weights: Each = 1.0,
    flatten: bool = True,
    row_wise: bool = False,
    whole: Whole = WHOLE,
) -> Tensor:
    """Merge two changes of one weight; without a base, two weights.

    Shapes: base (*s), deltas (2, *s) -> merged (*s)
    Formula: base + (sin((1 - t) a) d_1 + sin(t a) d_2) / sin a, t = w_2 / (w_1 + w_2) (1/2 where the weights cancel),
    a the angle between d_1 and d_2: as one vector each, or, with `flatten` off, of each vector along the last
    dimension, or, with `row_wise`, along the first. Where they point the same way or opposite ways the line is taken.
    Differs: from mergekit in rounding alone. As there, `row_wise` takes the vectors along the first dimension, which
    in a matrix are its columns, and counts only with `flatten` off.

    >>> import torch
    >>> nuslerp(torch.ones(2), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([3.1213, 1.7071])
    """
    if len(deltas) == 1:
        return base + deltas[0]
    column = each(weights, deltas).flatten().tolist()
    t = column[1] / sum(column) if abs(sum(column)) >= 1e-6 else 0.5
    products = _products(deltas, flatten, row_wise, whole)
    lengths = products[:2].sqrt().clamp_min(1e-7)
    cosine = (products[2] / lengths[0] / lengths[1]).clamp(-1, 1)
    straight = 1 - cosine.square() <= 1e-16
    angle = torch.acos(torch.where(straight, 0, cosine))
    first = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle))
    second = torch.where(straight, t, torch.sin(t * angle) / torch.sin(angle))
    return base + (first.to(base) * deltas[0]).addcmul_(second.to(base), deltas[1])


def _products(deltas: Tensor, flatten: bool, row_wise: bool, whole: Whole) -> Tensor:
    """d_1 d_1, d_2 d_2 and d_1 d_2 of the vectors whose angle counts: (3, ...), which fits to the weight's shape."""
    if flatten:
        return gram(deltas, whole)[[0, 1, 0], [0, 1, 1]]
    pairs = torch.stack([deltas[0].square(), deltas[1].square(), deltas[0] * deltas[1]])
    if deltas.ndim == 1:
        return pairs.double()
    if row_wise and deltas.ndim > 2:
        return whole.sum(pairs.sum(1, dtype=torch.float64))
    return pairs.sum(-1, keepdim=True, dtype=torch.float64)
