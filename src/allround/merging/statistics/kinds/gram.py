"""Gram matrices of the inputs of each layer, as RegMean needs them."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method


@method(
    source="Jin et al., ICLR 2023, arXiv:2212.09849, Section 3; divided by the number of rows as in the code of MaTS",
    sees=("inputs",),
)
def gram(inputs: Tensor, width: int) -> Tensor:
    """The Gram matrix of the rows that a layer was given.

    Shapes: inputs (n, width) -> (width, width). Whole numbers (n,), as an embedding is given, stand for rows with a one
    in that place: their Gram matrix is diagonal, and is its diagonal (width,), the counts.
    Formula: X^T X, in float32; over all batches divided by the number of rows

    >>> gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 2)
    tensor([[1., 2.],
            [2., 5.]])
    >>> gram(torch.tensor([0, 2, 2]), 3)
    tensor([1., 0., 2.])
    """
    if not inputs.is_floating_point():
        return torch.bincount(inputs, minlength=width).float()
    rows = inputs.float()
    return rows.T @ rows
