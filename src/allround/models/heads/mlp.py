"""MLP: one hidden layer with GELU, as the heads of ELECTRA and DeBERTa have."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.perceptron import Perceptron


@method(
    source="a perceptron with one hidden layer of GELU units, 64 where it begins untrained, on standardised features"
)
class Mlp(Perceptron):
    """outputs = weight @ gelu(hidden_weight @ features + hidden_bias) + bias; answers zeros before it is trained.

    >>> import torch
    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "regression", ("x",), "text", "pearson", center=0.0, scale=1.0)
    >>> Mlp(d, 4)(torch.ones(1, 4)).tolist()
    [[0.0]]
    """

    sort = "mlp"

    @staticmethod
    def activation(values: Tensor) -> Tensor:
        return F.gelu(values)
