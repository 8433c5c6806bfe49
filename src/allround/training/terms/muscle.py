"""muscle: rows that the model does not answer rightly yet are to be answered as an old version answers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.likelihoods.categorical import Categorical
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.batch import Batch, Features
    from allround.models.model import Model
    from allround.tasks.definition import Definition
    from allround.tasks.task import Task


@method(
    source="Echterhoff et al., EMNLP Findings 2024, arXiv:2407.09435; mask `kept`: positive-congruent training, Yan et "
    "al., CVPR 2021, arXiv:2011.09161",
    paper="MUSCLE: A Model Update Strategy for Compatible LLM Evolution",
)
class Muscle(Term):
    """Adds to the loss of each task that an old version knows the masked distance of the answers from those that the
    old version, or a new one that was tuned already, gives to the same rows. It is meant to lower negative flips: rows
    that the old version answers rightly and the new one wrongly.

    old: the folder of the old version; new: of the tuned new one, or nothing. mask: the rows on which the old version
    is followed: `wrong`, those that the model in training answers wrongly at that moment, as in the paper; `kept`,
    those that the old version answers rightly.

    Formula: weight * mean over rows of m KL(old || model) + (1 - m) KL(new || model), m = 1 on rows of the mask;
    without a new version the second part is left out
    Differs: the paper learns from this alone, always with a new version, token by token of a language model; here it
    is added to the task's loss, which teaches the rows outside the mask, and a row is a text, or a word of a task per
    word. Tasks with one label out of several are held, others are not. Both versions must read rows as the model does.
    A language model is held where its task is trained on all choices (`loss: choices`).
    """

    reads_features: ClassVar[bool] = True

    def __init__(
        self, *, old: str, new: str = "", weight: float = 1.0, mask: Literal["wrong", "kept"] = "wrong"
    ) -> None:
        super().__init__()
        self.old, self.new, self.weight, self.mask = old, new, weight, mask
        self._teachers: list[MultiTaskModel] = []

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        self._teachers = [_teacher(folder, model) for folder in (self.old, self.new) if folder]
        for name in set(model.definitions) & set(self._teachers[0].definitions):
            definition = model.definition(name)
            _check_choices(definition, model.encoder.head(definition), f"learn from the version {self.old}")

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        assert isinstance(model, MultiTaskModel) and features is not None
        known = all(task in teacher.definitions for teacher in self._teachers)
        if not known or not isinstance(model.output_head(task).likelihood, Categorical):
            return None
        targets = batch.targets[task]
        logits = model.output_head(task)(features.take(targets.rows, batch.size).of(task).values)
        with torch.no_grad():
            taught = [teacher.output_head(task)(teacher.features(batch).take(targets.rows, batch.size).of(task).values)
                      for teacher in self._teachers]  # fmt: skip
        return self.weight * self.distance(logits, taught, targets.values)

    def distance(self, logits: Tensor, taught: Sequence[Tensor], targets: Tensor) -> Tensor:
        """The masked distance. Shapes: (n, labels) each, targets (n,) -> ().

        >>> logits, old = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> muscle = Muscle(old="m", mask="wrong")  # only the second row is answered wrongly
        >>> round(muscle.distance(logits, [old], torch.tensor([0, 0])).item(), 4)
        0.2169
        """
        judged, right = (logits, 0) if self.mask == "wrong" else (taught[0], 1)
        hit = (judged.detach().argmax(-1) == targets).long()
        logs = F.log_softmax(logits.float(), -1)
        gaps = [F.kl_div(logs, F.log_softmax(one.float(), -1), reduction="none", log_target=True).sum(-1)
                for one in taught]  # fmt: skip
        held = hit == right
        return torch.where(held, gaps[0], gaps[1] if len(gaps) > 1 else torch.zeros_like(gaps[0])).mean()


def _check_choices(definition: Definition, head: str, asked: str) -> None:
    """An error for a task in whose training only the right answer has a probability. head: the sort of its head."""
    reads = registry.find("head", head).facts["reads"]
    if reads == "scores" and (definition.prompt is None or definition.prompt.loss != "choices"):
        raise AllroundError(
            asked,
            f"the task '{definition.name}' is trained on the tokens of right answers, so that no other answer has a "
            "probability in training",
            f"give the task `loss: choices`, or leave '{definition.name}' out",
        )


def _teacher(folder: str, model: MultiTaskModel) -> MultiTaskModel:
    """A version that a model learns from, with its weights fixed."""
    asked = f"learn from the version {folder}"
    found = load(folder)
    if not isinstance(found, MultiTaskModel):
        raise AllroundError(asked, "it is not a model with one encoder and heads", "give the folder of such a model")
    if found.preparation != model.preparation:
        raise AllroundError(asked, "it reads rows in another way than the model in training",
                            "give a version with the same sort of encoder and the same settings")  # fmt: skip
    for name in set(found.definitions) & set(model.definitions):
        if found.definition(name).labels != model.definition(name).labels:
            raise AllroundError(asked, f"its labels of '{name}' are others", "give a version with the same labels")
    return found.to(model.device).eval().requires_grad_(False)
