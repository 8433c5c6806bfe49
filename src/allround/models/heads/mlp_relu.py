"""MLP with ReLU: one hidden layer, as the head of DistilBERT has."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.perceptron import Perceptron


@method(source="the pre-classifier and classifier of DistilBERT: Sanh et al., 2019, arXiv:1910.01108")
class MlpRelu(Perceptron):
    """outputs = weight @ relu(hidden_weight @ features + hidden_bias) + bias; answers zeros before it is trained.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "regression", ("x",), "text", "pearson", center=0.0, scale=1.0)
    >>> MlpRelu(d, 4)(torch.ones(1, 4)).tolist()
    [[0.0]]
    """

    sort = "mlp_relu"

    @staticmethod
    def activation(values: Tensor) -> Tensor:
        return torch.relu(values)
