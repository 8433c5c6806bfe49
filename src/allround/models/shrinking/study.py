"""What is measured of a model before parts of it are removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError, suggestion
from allround.models.batch import Batch, taken
from allround.models.running import by_length
from allround.models.shrinking.anatomy import LAYERS, Anatomy, Group, Kept
from allround.models.shrinking.importance import Over, combined, contributions, taylor
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task

#: How much each task counts in the scores of parts; None for all alike.
Weights: TypeAlias = Mapping[str, float] | None
#: Rows of a batch.
BATCH = 16


@dataclass(frozen=True)
class Study:
    """What ways to shrink look at.

    scores: the importance of each group's parts to each task, (tasks, parts). norms: the sums of the absolute weights
    that write each part, (parts,); of layers there are none. losses: the mean loss of each task on some training rows,
    (tasks,), of the model with what is kept and no training since. tasks: their names.
    """

    anatomy: Anatomy
    scores: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    losses: Callable[[Kept], Tensor]
    tasks: Sequence[str] = ()

    def importance(self, group: str, over: Over = "max", weights: Weights = None) -> Tensor:
        """What each part of a group is worth, (parts,). over: how the tasks' scores become one."""
        return combined(self.scores[group], over, None if weights is None else self.weighed(weights))

    def weighed(self, weights: Mapping[str, float]) -> list[float]:
        """The weight of each task; a task without one has none. Errors: an unknown task, and weights that are not
        above 0."""
        asked = "weigh tasks in shrinking"
        for name, value in weights.items():
            if name not in self.tasks:
                raise AllroundError(asked, f"no task is called {name!r}", suggestion(name, self.tasks))
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise AllroundError(asked, f"the weight of '{name}' is {value!r}", "give a number above 0")
        if not weights:
            raise AllroundError(asked, "no task has a weight", "name one, such as weights={TASK: 1}")
        return [float(weights.get(name, 0.0)) for name in self.tasks]


def study(
    model: MultiTaskModel, tasks: Sequence[Task], *, rows: int = 256, scores: Mapping[str, Tensor] | None = None
) -> Study:
    """Look at a model on the first training rows of its tasks.

    rows: of each task, at most. scores: where they were computed before.
    """
    model.eval()
    some = [_prepared(model, task, rows) for task in tasks]
    lengths = [model.encoder.length(row) for one in some for row in one.rows]
    anatomy = model.encoder.anatomy(sum(lengths) / len(lengths))
    found = scores
    if found is None:
        each = [_scores(model, anatomy, one) for one in some]
        found = {group.name: torch.stack([one[group.name] for one in each]) for group in anatomy.groups}
    norms = {one.name: norms_of(model.encoder.backbone, one) for one in anatomy.units()}
    return Study(anatomy, found, norms, lambda kept: losses_of(model, kept, some), [task.name for task in tasks])


@dataclass(frozen=True)
class _Rows:
    """Training rows of a task, prepared."""

    task: str
    rows: Sequence[Any]
    targets: Any


def _prepared(model: MultiTaskModel, task: Task, most: int) -> _Rows:
    split = task.splits["train"].take(range(min(most, len(task.splits["train"]))))
    return _Rows(task.name, model.prepare(task.name, split.inputs, split.targets), split.targets)


def _batches(model: MultiTaskModel, some: _Rows) -> Iterator[Batch]:
    for numbers in by_length([model.size(row) for row in some.rows], BATCH):
        asked = {some.task: range(len(numbers))}
        batch = model.collate([some.rows[n] for n in numbers], asked, {some.task: taken(some.targets, numbers)})
        yield batch.to(model.device)


@torch.no_grad()
def losses_of(model: MultiTaskModel, kept: Kept, some: Sequence[_Rows]) -> Tensor:
    """The mean loss of each task with what is kept. Shape: (tasks,)"""
    smaller = MultiTaskModel(model.encoder.smaller(kept) if kept else model.encoder, {})
    smaller.definitions, smaller.heads = model.definitions, model.heads
    smaller.eval()
    found = []
    for one in some:
        total, count = 0.0, 0
        for batch in _batches(smaller, one):
            loss = smaller.losses(batch)[one.task]
            total, count = total + float(loss.sum), count + loss.count
        found.append(total / max(1, count))
    return torch.tensor(found, dtype=torch.float64)


def norms_of(network: nn.Module, group: Group) -> Tensor:
    """The sum of the absolute weights that write each part: the saliency of Li et al., ICLR 2017, arXiv:1608.08710."""
    total = torch.zeros(group.count)
    for name in group.writes:
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        if weight.dim() > 1:  # without what scales the parts afterwards
            total += weight.detach().float().abs().reshape(group.count, -1).sum(1).cpu()
    return total


def _scores(model: MultiTaskModel, anatomy: Anatomy, some: _Rows) -> dict[str, Tensor]:
    """The importance of every part to one task."""
    found: dict[str, list[Tensor]] = {group.name: [] for group in anatomy.groups}
    for batch in _batches(model, some):
        with _watched(model.encoder.backbone, anatomy) as seen:
            loss = model.losses(batch)[some.task].sum
            gradients = torch.autograd.grad(loss, [gave for _, gave in seen.values()], allow_unused=True)
        of = {key: torch.zeros_like(gave) if g is None else g
              for (key, (_, gave)), g in zip(seen.items(), gradients, strict=True)}  # fmt: skip
        for group in anatomy.groups:
            keys = [(group.name, number) for number in range(len(group.reads))]
            parts = [_parts(seen[key][0], of[key], group, batch.size) for key in keys]
            # Of layers each module is a part; modules that read the same parts add up.
            found[group.name].append(torch.cat(parts, 1) if group.name == LAYERS else torch.stack(parts).sum(0))
    return {name: taylor(torch.cat(some_)) for name, some_ in found.items()}


def _parts(values: Tensor, gradients: Tensor, group: Group, rows: int) -> Tensor:
    """What parts contribute to each row; of a pair that is read apart, both sides together. Shape: (rows, parts)"""
    count = 1 if group.name == LAYERS else group.count
    shaped = []
    for tensor in (values.detach(), gradients):
        if tensor.dim() == 4:  # channels before places
            shaped.append(tensor.flatten(2).transpose(1, 2).unflatten(2, (count, -1)))
        else:
            shaped.append(tensor.reshape(len(tensor), -1, count, tensor.shape[-1] // count))
    return contributions(*shaped).reshape(-1, rows, count).sum(0).cpu()


@contextmanager
def _watched(network: nn.Module, anatomy: Anatomy) -> Iterator[dict[tuple[str, int], tuple[Tensor, Tensor]]]:
    """By group and module, the values of its parts, and the tensor whose gradient is theirs, of the next pass.

    A layer's own value is what it adds to what it reads: without it, the next one would read that.
    """
    seen: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def read(key: tuple[str, int], _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        seen[key] = given[0], given[0]
        return given

    def passed(key: tuple[str, int], _: nn.Module, given: tuple[Any, ...], gave: Any) -> None:
        out = gave[0] if isinstance(gave, tuple) else gave
        seen[key] = out - given[0], out

    hooks = []
    for group in anatomy.groups:
        for number, name in enumerate(group.reads):
            module, key = network.get_submodule(name), (group.name, number)
            hooks.append(module.register_forward_hook(partial(passed, key)) if group.name == LAYERS
                         else module.register_forward_pre_hook(partial(read, key)))  # fmt: skip
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
