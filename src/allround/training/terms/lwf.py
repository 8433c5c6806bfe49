"""LwF: on the new rows, old tasks are to be answered as they were before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.head import OutputHead
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.distances import output_distance
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.batch import Batch, Features
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(
    source="Li and Hoiem, ECCV 2016, arXiv:1606.09282, equation 2; vl_nnsoftmaxdiff.m of "
    "lizhitwo/LearningWithoutForgetting",
    paper="Learning without Forgetting",
)
class Lwf(Term):
    """Adds to the loss of each batch, for each head that the model had after the last training with this object, the
    distance of its answers from those that the model as it then was gives to the same rows. Of a head that
    has more labels since, the old ones are to keep all the probability, as in GMvandeVen/continual-learning.

    Formula: weight * T^2 * mean over rows and old heads of KL(softmax(z' / T) || softmax(z / T)), z' being the old
    outputs; for outputs that are no scores of labels, the mean of (z - z')^2

    Differs: the authors alternate steps of both losses, and their gradient has a factor 1 / T where this has T, so that
    their strength 1 is 1 / T^2 here; they keep old answers to the new rows where this keeps the old model. Heads of
    tasks per word, or that read features of another length, are not held.
    """

    reads_features: ClassVar[bool] = True

    def __init__(self, *, weight: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        self._old: MultiTaskModel | None = None
        self._known: dict[str, int] = {}

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        self._known = {name: len(rows[""]) for name, rows in self.state.items()}
        self._old = copy.deepcopy(model).eval().requires_grad_(False) if self._known else None

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        if self._old is None or features is None:
            return None
        assert isinstance(model, MultiTaskModel)
        with torch.no_grad():
            old_features = self._old.features(batch)
        found = []
        for name, outputs in self._known.items():
            head, old = model.output_head(name), self._old.output_head(name)
            if head.per_token or features.lengths or model.width(name) != features.values.shape[-1]:
                continue
            new_z, old_z = head(features.values), old(old_features.values)[:, :outputs]
            found.append(self.distance(new_z, old_z, labels=head.likelihood.log_probabilities(old_z) is not None))
        return self.weight * torch.stack(found).mean() if found else None

    def distance(self, new: Tensor, old: Tensor, *, labels: bool = True) -> Tensor:
        """How far outputs are from the old ones, the mean over rows. Shapes: (n, outputs) and (n, old outputs)."""
        return output_distance(new, old, self.temperature, labels=labels)

    def after(self, model: Model) -> None:
        assert isinstance(model, MultiTaskModel)
        # Only how many outputs each head had: the old weights are those that the next training begins with.
        heads = {name: model.head(name) for name in model.definitions}
        self.state = {n: {"": torch.zeros(head.outputs)} for n, head in heads.items() if isinstance(head, OutputHead)}
        self._old = None
