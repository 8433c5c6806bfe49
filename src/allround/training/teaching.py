"""What a teacher gives for rows: its features, and the numbers that a student's head of the same task should give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.models.batch import Answers
from allround.models.running import features_of
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.task import Split
from allround.tasks.values import Row

#: Probabilities of a teacher that gives no outputs are taken as at least this.
LEAST = 1e-6


class Taught(NamedTuple):
    """Numbers that a teacher gives for rows: (n, d), or (words, d) with the words of each row in `lengths`."""

    values: Tensor
    lengths: tuple[int, ...] = ()

    def take(self, rows: Sequence[int]) -> Tensor:
        """Those of some rows, in any order.

        >>> Taught(torch.arange(5.0)[:, None], (2, 0, 3)).take([2, 0]).flatten().tolist()
        [2.0, 3.0, 4.0, 0.0, 1.0]
        """
        if not self.lengths:
            return self.values[list(rows)]
        ends = np.cumsum(self.lengths)
        return torch.cat([self.values[ends[row] - self.lengths[row] : ends[row]] for row in rows])

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.lengths or self.values)


def check_teacher(teacher: System, definition: Definition, folder: str) -> None:
    """An error where a system cannot teach a task: it must have the task, of the same kind and with the same labels."""
    asked = f"learn the task '{definition.name}' from {folder}"
    own = teacher.definition(definition.name)
    if own.kind != definition.kind and not (kind(own.kind).numeric and kind(definition.kind).numeric):
        raise AllroundError(asked, f"there it is of the kind {own.kind}, and here {definition.kind}",
                            "give a teacher that answers the same task")  # fmt: skip
    if own.labels != definition.labels:
        raise AllroundError(asked, "its labels there are others, or in another order",
                            "give a teacher with the same labels")  # fmt: skip
    if own.inputs != definition.inputs:
        raise AllroundError(asked, f"there it reads {', '.join(own.inputs)}, and here {', '.join(definition.inputs)}",
                            "give a teacher that reads the same columns")  # fmt: skip


def teach(
    teacher: System,
    definition: Definition,
    rows: Sequence[Row],
    features: Taught | None = None,
    batch_size: int = 64,
) -> Taught:
    """The outputs that a teacher gives for rows, numbers in the units of the student's `definition`.

    A model with heads gives what its head gives, whatever rows become in it; any other system the logarithms of its
    probabilities, which are logits up to a constant. features: what a model with heads gave as such for these rows.
    Errors: a system that gives neither.
    """
    own = teacher.definition(definition.name)
    if features is not None:
        assert isinstance(teacher, MultiTaskModel)
        with torch.no_grad():
            outputs = teacher.output_head(own.name)(features.values.to(teacher.device))
        made = Taught(outputs.float().cpu(), features.lengths)
    elif isinstance(teacher, MultiTaskModel):
        found = teacher.outputs(own.name, rows, batch_size)
        made = Taught(found.logits.detach().float().cpu().clone(), found.lengths)
    else:
        made = _from_answers(teacher.answers(own.name, rows, batch_size=batch_size, scores=True), own)
    if not kind(own.kind).numeric:
        return made
    return Taught((made.values * own.scale + (own.center - definition.center)) / definition.scale)


def teach_features(model: MultiTaskModel, task: str, split: Split) -> Taught:
    """The features that a model gives for rows of a task."""
    rows = model.prepare(task, split.inputs, split.targets)
    made = features_of(model.encoder, rows, model.definition(task))
    return Taught(made.values.clone(), made.lengths)


def _from_answers(answers: Answers, own: Definition) -> Taught:
    if kind(own.kind).numeric:
        return Taught(torch.as_tensor(np.asarray(answers.predictions), dtype=torch.float32).unsqueeze(1))
    if answers.scores is None or own.kind == "ordinal":
        raise AllroundError(f"learn the task '{own.name}' from a system", "it gives no outputs to learn from",
                            "give a model with an encoder and heads as the teacher")  # fmt: skip
    scores = answers.scores
    lengths = tuple(len(one) for one in scores) if isinstance(scores, list) else ()
    table = torch.as_tensor(np.concatenate(scores) if isinstance(scores, list) else scores, dtype=torch.float32)
    table = table.clamp(LEAST, 1 - LEAST)
    return Taught(table.logit() if own.kind == "multilabel" else table.log(), lengths)
