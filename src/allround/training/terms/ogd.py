"""OGD: no step moves along the gradients of earlier answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.model import device_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.term import Term, followed, padded

if TYPE_CHECKING:
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(
    source="OGD: Farajtabar et al., AISTATS 2020, arXiv:1910.07104; PCA-OGD: Doan et al., AISTATS 2021, "
    "arXiv:2010.04003, and algos/ogd.py of tldoan/PCA-OGD",
    paper="A Theoretical Analysis of Catastrophic Forgetting through the NTK Overlap Matrix",
)
class Ogd(Term):
    """After a training, gradients of answers to its rows are kept; in later trainings with the same object, each step
    is made orthogonal to all of them.

    Formula: g - Q Q^T g for the gradient g, and u - Q Q^T u for the step u that the optimiser makes of it; the columns
    of Q are an orthonormal basis of what was kept. A gradient is that of the output of the row's label; of tasks
    without one label, of the sum of all outputs

    directions: how many are kept of each task of a training. sample: rows whose gradients the directions are computed
    from, as those in which they are largest (principal components); 0 keeps the gradients of `directions` rows as they
    are. centred: take the mean off the gradients first, as the authors' code does; then the mean itself, which is often
    the largest direction, is not held.

    Differs: the authors project the gradient alone, and take steps of plain descent; the step of AdamW is not along the
    gradient. Weights of other tasks' heads are left out: a training does not move them.

    This holds answers to first order: at large learning rates it does not help.
    Remembers `directions` numbers for each weight and task of each training.
    """

    holds_weights: ClassVar[bool] = True

    def __init__(self, *, directions: int = 40, sample: int = 0, centred: bool = False) -> None:
        super().__init__()
        self.directions, self.sample, self.centred = directions, sample, centred
        self._tasks: list[Task] = []
        self._basis: Tensor | None = None
        self._old: Tensor | None = None

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        self._tasks, self._basis = list(tasks), None
        kept, parameters = self.state.get("directions", {}), followed(model, tasks)
        if set(kept) & set(parameters):
            count = len(next(iter(kept.values())))
            columns = [padded(kept.get(n, p.new_zeros(count, *p.shape)).to(p), (count, *p.shape)).reshape(count, -1)
                       for n, p in parameters.items()]  # fmt: skip
            self._basis = torch.linalg.qr(torch.cat(columns, 1).T).Q

    @torch.no_grad()
    def edit(self, model: Model) -> None:
        if self._basis is not None:
            parameters = followed(model, self._tasks).values()
            self._old = parameters_to_vector(parameters)
            slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            for p, left in zip(parameters, self._orthogonal(parameters_to_vector(slopes), parameters), strict=True):
                p.grad = left

    @torch.no_grad()
    def stepped(self, model: Model) -> None:
        if self._old is not None:
            parameters = followed(model, self._tasks).values()
            step = parameters_to_vector(parameters) - self._old
            old = self._old.split([p.numel() for p in parameters])
            for p, before, left in zip(parameters, old, self._orthogonal(step, parameters), strict=True):
                p.copy_(before.view_as(p) + left)

    def _orthogonal(self, vector: Tensor, parameters: Collection[Tensor]) -> list[Tensor]:
        """What is left of a vector without what lies along the basis, in the shapes of parameters."""
        assert self._basis is not None
        left = (vector - self._basis @ (self._basis.T @ vector)).split([p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(left, parameters, strict=True)]

    def after(self, model: Model) -> None:
        self._basis = self._old = None
        parameters = followed(model, self._tasks)
        for task in self._tasks:
            made = self.of_task(model, task, parameters)
            kept = self.state.setdefault("directions", {})
            old, new = (len(next(iter(some.values()), ())) for some in (kept, made))
            for name, p in parameters.items():
                before = padded(kept[name], (old, *p.shape)) if name in kept else torch.zeros(old, *p.shape)
                kept[name] = torch.cat([before, made[name]])
            for name in kept.keys() - made.keys():
                kept[name] = torch.cat([kept[name], torch.zeros(new, *kept[name].shape[1:])])

    def of_task(self, model: Model, task: Task, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The directions in which the model's answers to training rows of a task change, (n, *shape) of each weight."""
        found = gradients_of_answers(model, task, parameters, self.sample or self.directions)
        if self.centred:
            found = {name: value - value.mean(0) for name, value in found.items()}
        if not self.sample:
            return found
        gram = torch.stack([flat @ flat.T for value in found.values() for flat in [value.flatten(1).double()]]).sum(0)
        largest = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, : self.directions].float()
        return {name: torch.tensordot(largest, value, ([0], [0])) for name, value in found.items()}


def gradients_of_answers(model: Model, task: Task, parameters: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The gradient of the answer to each of some training rows, (n, *shape) of each weight: see `Ogd`."""
    assert isinstance(model, MultiTaskModel)
    head, split = model.output_head(task.name), task.splits["train"]
    split = split.take(
        sorted(np.random.default_rng(seed_of(0, "ogd", task.name)).permutation(len(split))[:rows].tolist())
    )
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    model.eval()
    for row, ready in enumerate(model.prepare(task.name, split.inputs, split.targets)):
        targets = split.take([row]).targets
        batch = model.collate([ready], {task.name: [0]}, {task.name: targets}).to(device_of(model))
        outputs, wanted = head(model.features(batch).of(task.name).values), batch.targets[task.name].values
        labels = not wanted.is_floating_point() and outputs.shape[1] == len(task.definition.labels)
        answer = outputs.gather(1, wanted[:, None]).sum() if labels else outputs.sum()
        slopes = torch.autograd.grad(answer, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for name, slope in zip(parameters, slopes, strict=True):
            found[name].append(slope.float().cpu())
    return {name: torch.stack(slopes) for name, slopes in found.items()}
