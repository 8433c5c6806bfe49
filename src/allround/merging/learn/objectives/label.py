"""Label: the task's own loss on labelled rows."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.merging.learn.objective import Response, logits_of
from allround.models.likelihood import likelihood
from allround.tasks.definition import Definition


@method(source="supervised, as SuperMerge, arXiv:2412.10416, and aTLAS, arXiv:2407.02880", needs=("labels",))
def label(merged: Response, specialist: Response, targets: Tensor, definition: Definition) -> Tensor:
    """Cross-entropy with the labels, or half the squared error of a number.

    Shapes: logits (n, outputs), targets (n, ...) -> ()

    >>> import torch
    >>> task = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> answers = Response(torch.zeros(1, 2), torch.zeros(1, 2))
    >>> round(label(answers, answers, torch.tensor([0]), task).item(), 4)
    0.6931
    """
    return likelihood(definition).loss(logits_of(merged, definition), targets)
