"""Heads that are computed, not trained: what they remember, and how they are made after an arrival."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allround.continual.rows import Memory
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.head import HeadState
from allround.models.model import Model
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.task import Task

Matrix = NDArray[np.float64]


class HeadPolicy(ABC):
    """Makes the head of a task after rows of it arrived.

    state: what it remembers of all rows so far, by task and name; counted as memory.
    """

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def make(self, model: Model, task: Task, memory: Memory) -> HeadState:
        """The head of a task. task: the rows that arrived, with all labels so far. memory: as it is after the arrival.

        Errors: a kind of task that it cannot answer.
        """


def make_policy(name: str, values: Mapping[str, object] | None = None) -> HeadPolicy:
    """A way to make heads by its name, with its parameters.

    >>> type(make_policy("prototype")).__name__
    'Prototype'
    """
    entry = registry.find("head_policy", name)
    made: HeadPolicy = entry.load()(**entry.resolve(values or {}))
    return made


def columns_of(task: Task) -> Matrix:
    """Targets of the training rows as columns of numbers, (n, k): 1 for the label and 0 for others; 1 and -1 for lists
    of labels; standardised numbers."""
    definition, targets = task.definition, task.splits["train"].targets
    if definition.kind == "classification":
        found = np.zeros((len(targets), len(definition.labels)))
        found[np.arange(len(targets)), targets] = 1
        return found
    if definition.kind == "multilabel":
        return 2.0 * np.asarray(targets, dtype=np.float64) - 1
    if kind(definition.kind).numeric:
        return np.asarray(targets, dtype=np.float64)[:, None]
    raise cannot(definition, "rows with a label, several labels or a number")


def labels_of(task: Task) -> NDArray[np.int64]:
    """The number of the label of each training row. Errors: a task without single labels."""
    if task.definition.kind != "classification":
        raise cannot(task.definition, "rows with one label")
    return np.asarray(task.splits["train"].targets, dtype=np.int64)


def cannot(definition: Definition, what: str) -> AllroundError:
    return AllroundError(
        f"compute the head of '{definition.name}'",
        f"it is a task of the kind {definition.kind}, and this head is for {what}",
        "use a strategy that trains heads",
    )


def grown(kept: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """A sum as it was remembered, with zeros for labels that came since; zeros where nothing was remembered."""
    found = torch.zeros(shape, dtype=torch.float64)
    if kept is not None:
        found[tuple(slice(size) for size in kept.shape)] = kept
    return found
