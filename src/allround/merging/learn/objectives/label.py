"""Label: the task's own loss on labelled rows."""

from __future__ import annotations

from torch import Tensor

from allround.core.registry import method
from allround.merging.learn.objective import Answers, logits_of
from allround.tasks.definition import Definition
from allround.tasks.kind import kind


@method(source="supervised, as SuperMerge, arXiv:2412.10416, and aTLAS, arXiv:2407.02880", needs=("labels",))
def label(merged: Answers, specialist: Answers, targets: Tensor, definition: Definition) -> Tensor:
    """Cross-entropy with the labels, or half the squared error of a number.

    Shapes: logits (n, outputs), targets (n, ...) -> ()

    >>> import torch
    >>> task = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b"))
    >>> answers = Answers(torch.zeros(1, 2), torch.zeros(1, 2))
    >>> round(label(answers, answers, torch.tensor([0]), task).item(), 4)
    0.6931
    """
    return kind(definition.kind).loss(logits_of(merged, definition), targets, definition)
