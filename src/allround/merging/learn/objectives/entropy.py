"""Entropy: how undecided the merged model is; needs neither labels nor specialists."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.merging.learn.objective import Response, log_probabilities
from allround.tasks.definition import Definition


@method(
    source="Yang et al., ICLR 2024, arXiv:2310.02575, section 3.2",
    kinds=("classification", "ordinal", "multilabel", "token_classification"),
)
def entropy(merged: Response, specialist: Response, targets: Tensor, definition: Definition) -> Tensor:
    """Mean Shannon entropy of the merged model's predictions, in nats; of a multilabel task, of its labels.

    Shapes: logits (n, outputs) -> ()

    >>> import torch
    >>> task = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> answers = Response(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [9.0, -9.0]]))
    >>> round(entropy(answers, answers, torch.empty(0), task).item(), 4)
    0.3466
    """
    found = log_probabilities(merged, definition)
    return -(found.exp() * found).sum(-1).mean()
