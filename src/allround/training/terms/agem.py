"""A-GEM: no step is to raise the mean loss on remembered rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.model import device_of
from allround.training.term import Term, followed

if TYPE_CHECKING:
    from allround.models.model import Model
    from allround.tasks.task import Task

#: Added to the squared length of the remembered rows' gradient, as in GMvandeVen/continual-learning.
EPS = 1e-7


@method(
    source="Chaudhry et al., ICLR 2019, arXiv:1812.00420, equation 11; models/classifier.py of "
    "GMvandeVen/continual-learning"
)
class Agem(Term):
    """Takes out of a step's gradient what would raise the mean loss on `remembered` rows.

    Formula: g - g.r / (r.r + 1e-7) r where g.r < 0, and g elsewhere; r is the gradient of the mean loss on `rows`
    remembered rows, drawn for each step, over the weights that the training moves
    Differs: r is computed without dropout.

    With AdamW, as in GMvandeVen/continual-learning, the optimiser rescales the projected gradient, and its step can
    still raise that loss a little.
    """

    def __init__(self, *, rows: int = 64) -> None:
        super().__init__()
        self.rows = rows
        self._tasks: list[Task] = []
        self._prepared: list[tuple[Task, int, Any]] = []

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)
        self._prepared = []
        for task in self.remembered:
            split = task.splits["train"]
            ready = model.prepare(task.name, split.inputs, split.targets)
            self._prepared += [(task, row, one) for row, one in enumerate(ready)]
        self.state["steps"] = {"": torch.zeros(1)}

    def edit(self, model: Model) -> None:
        if not self._prepared:
            return
        parameters = followed(model, self._tasks)
        wanted = torch.autograd.grad(self.loss(model), list(parameters.values()), allow_unused=True)
        pairs = [(p, r) for p, r in zip(parameters.values(), wanted, strict=True) if r is not None]
        slope = sum(float((p.grad * r).sum()) for p, r in pairs if p.grad is not None)
        if slope < 0:
            length = sum(float(r.square().sum()) for _, r in pairs)
            for p, r in pairs:
                p.grad = (torch.zeros_like(p) if p.grad is None else p.grad) - slope / (length + EPS) * r

    def loss(self, model: Model) -> Tensor:
        """The mean loss on the remembered rows of this step, which are drawn by its number."""
        self.state["steps"][""] += 1
        generator = np.random.default_rng(seed_of(0, "agem", int(self.state["steps"][""])))
        drawn = [self._prepared[place] for place in generator.permutation(len(self._prepared))[: self.rows]]
        training = model.training
        model.eval()
        found = []
        for task in {id(task): task for task, _, _ in drawn}.values():
            rows = [(row, ready) for of, row, ready in drawn if of is task]
            targets = task.splits["train"].take([row for row, _ in rows]).targets
            batch = model.collate([ready for _, ready in rows], {task.name: range(len(rows))}, {task.name: targets})
            found.append(model.losses(batch.to(device_of(model)))[task.name].value * (len(rows) / len(drawn)))
        model.train(training)
        return torch.stack(found).sum()

    def after(self, model: Model) -> None:
        self.state, self._prepared = {}, []
