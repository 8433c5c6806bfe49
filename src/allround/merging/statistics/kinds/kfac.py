"""Kronecker factors of each layer's Fisher information: Gram matrices of its inputs and of the gradients after it."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method


@method(
    source="Martens and Grosse, ICML 2015, arXiv:1503.05671; over positions as in the code of MaTS, arXiv:2312.04339",
    sees=("inputs", "gradients"),
    parts=("input", "output"),
)
def kfac(inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors from the rows that a layer was given, and the gradients of the log-likelihood at its outputs.

    Shapes: inputs (n, in), gradients (n, out) -> A (in, in), G (out, out), where the Fisher information of the weight
    (out, in) is taken as the Kronecker product of G and A
    Formula: A = X^T X, G = D^T D, in float32; over all batches divided by the number of rows

    >>> import torch
    >>> kfac(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]))
    (tensor([[1., 2.],
            [2., 4.]]), tensor([[9.]]))
    """
    rows, changes = inputs.float(), gradients.float()
    return rows.T @ rows, changes.T @ changes
