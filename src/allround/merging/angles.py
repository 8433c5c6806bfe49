"""Inner products of changes: what methods that work with angles and lengths need of whole weights.

A mean on a sphere is a sum of the vectors that go into it, so it is found in two steps: the inner products of all
pairs (one question to `whole`), then, on that small matrix alone, the factor of each vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allround.merging.whole import Whole

#: Products of float32 are added up in float32 over so many entries, and from there in float64.
_RUN = 2048


def gram(vectors: Tensor, whole: Whole) -> Tensor:
    """The inner products of whole weights: vectors (k, *s), of which this is a block -> (k, k), float64 on the CPU.

    >>> from allround.merging.whole import WHOLE
    >>> gram(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), WHOLE).tolist()
    [[9.0, 3.0], [3.0, 2.0]]
    """
    rows = vectors.reshape(len(vectors), -1)
    runs = rows.shape[1] // _RUN
    rest = rows[:, runs * _RUN :].double()
    products = rest @ rest.T
    if runs:
        each = rows[:, : runs * _RUN].reshape(len(rows), runs, _RUN).transpose(0, 1)
        products += torch.bmm(each, each.transpose(1, 2)).sum(0, dtype=torch.float64)
    return whole.sum(products).cpu()


def mix(factors: Tensor, vectors: Tensor) -> Tensor:
    """The sum of the vectors (k, *s), each times its factor (k,)."""
    mixed: Tensor = torch.tensordot(factors.to(vectors.device, vectors.dtype), vectors, 1)
    return mixed
