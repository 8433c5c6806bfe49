"""distillation: a smaller model learns the answers and the features of a larger one, of all its tasks at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.batch import Features
from allround.models.head import OutputHead
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.training.distances import output_distance
from allround.training.teacher_rows import TeacherRows, ask_teachers, read_teacher_rows
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.batch import Batch
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(
    source="teacher annealing: loss of ltp/multitask_distill.py of HIT-SCIR/ltp, and Clark et al., ACL 2019, "
    "arXiv:1907.04829, equation 2; temperature: Hinton et al., arXiv:1503.02531",
    paper="N-LTP: An Open-source Neural Language Technology Platform for Chinese",
)
class Distillation(Term):
    """The loss of each task is mixed with the distance of the answers from a teacher's; features are to be near the
    teacher's, and the heads of other tasks are to answer the row as the teacher does.

    teacher: the folder of a model with the same tasks. specialists: folders with commas between; a task that one of
    them knows is learned from it. answers: how much of the loss is the distance from the teacher's answers. anneal: it
    falls to nothing in the course of the training, and the labels take its place. temperature: of softmax. features,
    others: strength of these two parts; each 0 leaves it out. taught: a folder in which `write_teacher_rows` keeps what
    the teachers give for the training rows; without it they are asked as training begins.

    `teacher` learns from any system, by outputs alone; this one needs the same tasks and features of one length.

    Formula: (1 - w) loss + w D(z, z') + features * mean (f - f')^2 / mean f'^2 + others * mean over heads of D, with
    w = answers * (1 - progress) if annealed; D = T^2 KL(softmax(z' / T) || softmax(z / T)), or the mean of (z - z')^2
    where outputs are no scores of labels
    Differs: N-LTP anneals from the teacher to the labels as `anneal` does, without the factor T^2 and with a
    temperature that depends on the token; features and the heads of other tasks are not in it.
    """

    reads_features: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: str,
        specialists: str = "",
        answers: float = 1.0,
        anneal: bool = False,
        temperature: float = 2.0,
        features: float = 1.0,
        others: float = 1.0,
        taught: str = "",
    ) -> None:
        super().__init__()
        self.teacher, self.specialists, self.taught = teacher, specialists, taught
        self.answers, self.anneal, self.temperature = answers, anneal, temperature
        self.features, self.others = features, others
        self.progress = 0.0
        self._rows: Mapping[str, TeacherRows] = {}
        self._model: MultiTaskModel | None = None

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        self._model = open_model(self.teacher).to(model.device).eval().requires_grad_(False)
        if self.taught:
            self._rows = read_teacher_rows(Path(self.taught), tasks)
        else:
            named = [one for one in self.specialists.split(",") if one]
            self._rows = ask_teachers(self._model, [open_model(one).to(model.device) for one in named], tasks)

    def progressed(self, share: float) -> None:
        self.progress = share

    def own_loss(self, task: str) -> float:
        return 1 - self._share

    @property
    def _share(self) -> float:
        """How much of the loss is now the distance from the teacher's answers."""
        return self.answers * (1 - self.progress if self.anneal else 1.0)

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        assert isinstance(model, MultiTaskModel) and self._model is not None and features is not None
        targets, rows = batch.targets[task], self._rows[task]
        found = features.take(targets.rows, batch.size).of(task)
        places = rows.places(batch.numbers[task])
        old = rows.values[places].to(found.values.device)
        loss = found.values.new_zeros(())
        if self.features and old.shape == found.values.shape:
            loss = loss + self.features * (found.values - old).square().mean() / rows.square
        if self._share:
            taught = None if rows.outputs is None else rows.outputs[places].to(old.device)
            loss = loss + self._share * self._distance(model, task, found, old, taught)
        if self.others and not found.lengths and not features.tasks:
            alike = [n for n in model.definitions if n not in batch.rows and self._alike(model, n, old.shape[1])]
            if alike:
                loss = loss + self.others * torch.stack([self._distance(model, n, found, old) for n in alike]).mean()
        return loss

    def _alike(self, model: MultiTaskModel, task: str, width: int) -> bool:
        """Whether a head can read features of other tasks' rows."""
        head = model.head(task)
        return isinstance(head, OutputHead) and not head.per_token and model.width(task) == width

    def _distance(
        self, model: MultiTaskModel, task: str, found: Features, old: Tensor, taught: Tensor | None = None
    ) -> Tensor:
        """How far a head's answers are from the teacher's. taught: these, where a specialist gave them."""
        assert self._model is not None
        head, teacher = model.output_head(task), self._model.output_head(task)
        with torch.no_grad():
            outputs = teacher(old) if taught is None else taught
        labels = head.likelihood.log_probabilities(outputs) is not None
        return output_distance(head(found.values), outputs, self.temperature, labels=labels)
