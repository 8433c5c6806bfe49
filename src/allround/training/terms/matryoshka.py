"""matryoshka: the first numbers of a vector are to serve alone, at several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.model import Model
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.wrapping import first_places, width_of
from allround.tasks.task import Task
from allround.training.term import Term


@method(
    source="Kusupati et al., NeurIPS 2022, arXiv:2205.13147, equation 1 with one head for all sizes (MRL-E); pinned to "
    "MatryoshkaLoss of sentence-transformers"
)
class Matryoshka(Term):
    """Adds each task's loss on vectors of which only the first numbers are left, for each of some sizes.

    Formula: sum_i weights_i * loss(first sizes_i numbers), beside the loss on whole vectors. The head is one for all
    sizes: it reads zeros in place of what is left out.
    A head that weighs the places of a vector has to be tuned along.
    sizes: such as [192, 96]; those of which nothing is said are a half, a quarter and an eighth of the vector. weights:
    one for each size, or nothing: then all are 1. `allround.models.sizes.at_size` gives the model at one of the sizes.
    """

    reads_features = True

    def __init__(self, *, sizes: tuple[int, ...] = (), weights: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.sizes: tuple[int, ...] = tuple(_listed(sizes))
        self.weights: tuple[float, ...] = tuple(_listed(weights))
        if self.weights and len(self.weights) != len(self.sizes):
            raise AllroundError(
                f"train at {len(self.sizes)} sizes with {len(self.weights)} weights",
                "each size has one weight",
                "give as many weights as sizes, or none",
            )
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in self.sizes):
            raise AllroundError(f"train at the sizes {list(self.sizes)}", "a size is a whole number of at least 1",
                                "give sizes such as [192, 96]")  # fmt: skip

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        for task in tasks:
            vector, sizes = self._sizes(model, task.name)
            frozen = not any(p.requires_grad for p in model.of_head(task.name).values())
            if sizes and frozen and _weighs_places(model, task.name, vector, sizes[0]):
                raise AllroundError(
                    f"train task '{task.name}' at {len(sizes)} smaller sizes with a frozen head",
                    "its head was fitted to whole vectors, and reads little from a part of one",
                    "let heads be tuned: heads=tuned (--heads tuned)",
                )

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        assert features is not None and isinstance(model, MultiTaskModel)
        targets, (vector, sizes) = batch.targets[task], self._sizes(model, task)
        if not targets.rows:
            return None
        own = features.take(targets.rows, batch.size).of(task)
        losses = []
        for size, weight in zip(sizes, self.weights or [1.0] * len(sizes), strict=True):
            kept = torch.zeros(own.values.shape[1], device=own.values.device)
            kept[first_places(len(kept), vector, size).to(kept.device)] = 1
            shown = own._replace(values=own.values * kept.to(own.values.dtype))
            losses.append(weight * model.head(task).loss(shown, targets.values).mean)
        return torch.stack(losses).sum()

    def _sizes(self, model: Model, task: str) -> tuple[int, tuple[int, ...]]:
        """The length of a vector, and the sizes that are below it. Errors: a size that is not."""
        if not isinstance(model, MultiTaskModel):
            raise AllroundError(f"train a {model.noun} with the term matryoshka", "it has no vectors that heads read",
                                "use a model with an encoder, or leave the term out")  # fmt: skip
        vector = width_of(model.encoder, model.definition(task))
        sizes = self.sizes or tuple(vector // part for part in (2, 4, 8) if vector // part)
        if max(sizes, default=0) >= vector:
            raise AllroundError(
                f"train task '{task}' at vectors of {max(sizes)} numbers",
                f"its vectors have {vector}, which are trained in any case",
                f"give sizes below {vector}",
            )
        return vector, sizes


def _weighs_places(model: Model, task: str, vector: int, size: int) -> bool:
    """Whether a task's head has a weight for each number of a vector; one that reads cosines has none."""
    assert isinstance(model, MultiTaskModel)
    head = model.head(task)
    left, whole = head.narrowed(first_places(head.width, vector, size)), head.stored()
    return any(left[name].shape != value.shape for name, value in whole.items())


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
