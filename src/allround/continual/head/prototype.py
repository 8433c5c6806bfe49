"""prototype: the label whose mean of remembered rows is nearest."""

from __future__ import annotations

import numpy as np
import torch

from allround.continual.features import row_features
from allround.continual.heads import HeadPolicy, labels_of
from allround.continual.rows import Memory
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.head import HeadState
from allround.models.model import Model
from allround.tasks.task import Task


@method(source="iCaRL: Rebuffi et al., CVPR 2017, arXiv:1611.07725, algorithm 1")
class Prototype(HeadPolicy):
    """A linear head without bias, whose row for a label is the mean of the features of its remembered rows, both scaled
    to length 1. The means are those that the model makes now, of rows of all arrivals.

    Errors: a label of which no row is remembered.
    """

    def make(self, model: Model, task: Task, memory: Memory) -> HeadState:
        known = memory.tasks.get(task.name, task).as_defined(task.definition)
        labels = labels_of(known)
        missing = [name for place, name in enumerate(task.definition.labels) if place not in labels]
        if missing:
            raise AllroundError(f"compute the head of '{task.name}'", f"no row of '{missing[0]}' is remembered",
                                "give the memory more bytes")  # fmt: skip
        features = _unit(row_features(model, task.name, known.splits["train"].inputs))
        means = np.stack([features[labels == place].mean(0) for place in range(len(task.definition.labels))])
        weight = torch.from_numpy(_unit(means)).float()
        return HeadState({"weight": weight, "bias": torch.zeros(len(weight))})


def _unit(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found
