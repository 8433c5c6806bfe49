"""What teachers give for training rows, computed once for all trainings that learn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.head import OutputHead
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task

#: The file that holds it, in a folder.
FILE = "taught.safetensors"


@dataclass(frozen=True)
class TeacherRows:
    """What teachers give for the training rows of a task.

    values: features of the rows, those of the words of a row one after the other. lengths: how many each row has.
    outputs: of the head of the task's specialist, where there is one.
    """

    values: Tensor
    lengths: Tensor
    outputs: Tensor | None = None

    @cached_property
    def square(self) -> float:
        """The mean square of a feature."""
        return max(float(self.values.float().square().mean()), 1e-12)

    @cached_property
    def starts(self) -> Tensor:
        """Where the features of each row begin."""
        return torch.cumsum(self.lengths, 0) - self.lengths

    def places(self, rows: Sequence[int]) -> Tensor:
        """The places of the features of some rows, in the order of the rows.

        >>> TeacherRows(torch.zeros(4, 1), torch.tensor([1, 2, 1])).places([2, 1]).tolist()
        [3, 1, 2]
        """
        starts, lengths = self.starts[list(rows)], self.lengths[list(rows)]
        if bool((lengths == 1).all()):
            return starts
        return torch.cat([torch.arange(s, s + n) for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)])


def ask_teachers(
    model: MultiTaskModel, specialists: Sequence[MultiTaskModel], tasks: Sequence[Task]
) -> dict[str, TeacherRows]:
    """What a model gives for the training rows of tasks, and for a task that a specialist knows, what that one answers.

    Errors: a task that the model does not know; a specialist with other labels.
    """
    found = {}
    for task in tasks:
        values, lengths = _features(model, task)
        outputs = None
        for one in specialists:
            if task.name in one.definitions:
                _check(model, one, task.name)
                outputs = one.output_head(task.name)(_features(one, task)[0].to(one.device)).detach().cpu()
                break
        found[task.name] = TeacherRows(values, torch.tensor(lengths or [1] * len(values)), outputs)
    return found


def write_teacher_rows(taught: Mapping[str, TeacherRows], folder: Path) -> None:
    """Keep what was taught in a folder."""
    from safetensors.torch import save_file

    parts = {"values": lambda one: one.values, "lengths": lambda one: one.lengths, "outputs": lambda one: one.outputs}
    tensors = {f"{task}/{name}": part(one) for task, one in taught.items() for name, part in parts.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, folder / FILE)


def read_teacher_rows(folder: Path, tasks: Sequence[Task]) -> dict[str, TeacherRows]:
    """What `write_teacher_rows` kept. Errors: other rows than those of the tasks."""
    from allround.checkpoints.weights import Weights

    weights, found = Weights(folder / FILE), {}
    tensors = {name: weights.get(name) for name in weights}
    for task in tasks:
        name = task.name
        lengths = tensors.get(f"{name}/lengths")
        if lengths is None or len(lengths) != len(task.splits["train"]):
            raise AllroundError(f"learn the task '{name}' from a teacher", f"{folder} has answers to other rows",
                                "compute them again")  # fmt: skip
        found[name] = TeacherRows(tensors[f"{name}/values"], lengths, tensors.get(f"{name}/outputs"))
    return found


def _features(model: MultiTaskModel, task: Task) -> tuple[Tensor, tuple[int, ...]]:
    split, definition = task.splits["train"], model.definition(task.name)
    rows = model.prepare(task.name, split.inputs, split.targets)
    made = features_of(model.encoder, rows, definition)
    return made.values.clone(), made.lengths


def _check(model: MultiTaskModel, specialist: MultiTaskModel, task: str) -> None:
    """An error where a specialist's outputs of a task are not those of the model."""
    own, other = model.definition(task), specialist.definition(task)
    if not isinstance(specialist.head(task), OutputHead) or own.labels != other.labels:
        raise AllroundError(f"learn the task '{task}' from its specialist", "its labels are others, or it writes texts",
                            "leave the specialist out, or tune one with the same labels")  # fmt: skip
