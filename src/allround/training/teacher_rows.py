"""What teachers give for training rows, computed once for all trainings that learn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.teaching import Taught, check_teacher, teach, teach_features

#: The file that holds it, in a folder.
FILE = "taught.safetensors"


@dataclass(frozen=True)
class TeacherRows:
    """What teachers give for the training rows of a task: outputs, and features where they are learned too."""

    outputs: Taught
    features: Taught | None = None

    @cached_property
    def square(self) -> float:
        """The mean square of a feature."""
        assert self.features is not None
        return max(float(self.features.values.float().square().mean()), 1e-12)


def ask_teachers(
    model: MultiTaskModel, specialists: Mapping[str, MultiTaskModel], tasks: Sequence[Task]
) -> dict[str, TeacherRows]:
    """The features that a model gives for the training rows of tasks, and its answers, or those of the first specialist
    that knows the task.

    specialists: by their folders. Errors: a task that the model does not know; a specialist with other labels.
    """
    found = {}
    for task in tasks:
        definition, split = model.definition(task.name), task.splits["train"]
        features = teach_features(model, task.name, split)
        named = [(folder, one) for folder, one in specialists.items() if task.name in one.definitions]
        if named:
            folder, specialist = named[0]
            check_teacher(specialist, definition, folder)
            outputs = teach(specialist, definition, split.inputs)
        else:
            outputs = teach(model, definition, split.inputs, features)
        found[task.name] = TeacherRows(outputs, features)
    return found


def write_teacher_rows(taught: Mapping[str, TeacherRows], folder: Path) -> None:
    """Keep what was taught in a folder."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for task, rows in taught.items():
        for name, part in (("outputs", rows.outputs), ("features", rows.features)):
            if part is not None:
                tensors[f"{task}/{name}"] = part.values.contiguous()
                tensors[f"{task}/{name}/lengths"] = torch.tensor(part.lengths, dtype=torch.long)
        tensors[f"{task}/rows"] = torch.tensor(rows.outputs.size)
    save_file(tensors, folder / FILE)


def read_teacher_rows(folder: Path, tasks: Sequence[Task]) -> dict[str, TeacherRows]:
    """What `write_teacher_rows` kept. Errors: other rows than those of the tasks."""
    from allround.checkpoints.weights import Weights

    weights, found = Weights(folder / FILE), {}
    tensors = {name: weights.get(name) for name in weights}

    def part(name: str) -> Taught:
        return Taught(tensors[name], tuple(tensors[f"{name}/lengths"].tolist()))

    for task in tasks:
        rows = tensors.get(f"{task.name}/rows")
        if rows is None or int(rows) != len(task.splits["train"]):
            raise AllroundError(f"learn the task '{task.name}' from a teacher", f"{folder} has answers to other rows",
                                "compute them again")  # fmt: skip
        features = f"{task.name}/features"
        found[task.name] = TeacherRows(part(f"{task.name}/outputs"), part(features) if features in tensors else None)
    return found
