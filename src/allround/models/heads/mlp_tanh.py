"""MLP with tanh: one hidden layer, as the heads of BERT and RoBERTa have."""

from __future__ import annotations

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.perceptron import Perceptron


@method(source="the pooler and classifier of BERT: Devlin et al., NAACL 2019, arXiv:1810.04805")
class MlpTanh(Perceptron):
    """outputs = weight @ tanh(hidden_weight @ features + hidden_bias) + bias; answers zeros before it is trained.

    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "regression", ("x",), "text", "pearson", center=0.0, scale=1.0)
    >>> MlpTanh(d, 4)(torch.ones(1, 4)).tolist()
    [[0.0]]
    """

    sort = "mlp_tanh"

    @staticmethod
    def activation(values: Tensor) -> Tensor:
        return torch.tanh(values)
