"""Diagonal Fisher information of every weight: how much the predictions depend on it."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method


@method(source="Matena and Raffel, NeurIPS 2022, arXiv:2111.09832, Section 3", sees=("parameters",))
def fisher(gradient: Tensor) -> Tensor:
    """The squared gradient of one example's log-likelihood for a parameter.

    Shapes: gradient (*s) -> (*s)
    Formula: g^2, in float32; its mean over examples is the diagonal of the Fisher information (with labels drawn from
    the model's predictions) or of the empirical one (with the given labels)

    >>> import torch
    >>> fisher(torch.tensor([1.0, -3.0]))
    tensor([1., 9.])
    """
    return gradient.float().square()
