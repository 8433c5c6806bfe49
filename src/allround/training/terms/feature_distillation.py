"""feature_distillation: features stay near those that the model had before the training."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.model import Model
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.term import Term


@method(source="feature distillation of SEED: Rypesc et al., ICLR 2024, arXiv:2401.10191, equation 2")
class FeatureDistillation(Term):
    """Adds `weight` times the mean squared difference of the features of a row from those of the encoder as training
    began. A mixture (1 - a) loss + a difference has the minima of this with weight a / (1 - a).
    """

    reads_features = True

    def __init__(self, *, weight: float = 99.0) -> None:
        super().__init__()
        self.weight = weight
        self._old: MultiTaskModel | None = None

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        self._old = MultiTaskModel(copy.deepcopy(model.encoder), {}).eval()

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        assert self._old is not None and features is not None
        with torch.no_grad():
            old = self._old.encoder(batch)
        found: Tensor = self.weight * (features.values - old.values).square().mean()
        return found
