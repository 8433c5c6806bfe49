"""Scores on validation rows over a training: the best state, and the tasks that no longer get better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from allround.models.device import products
from allround.models.model import Model
from allround.tasks.metric import better, needs_scores, score_of
from allround.tasks.task import Task
from allround.training.feeds import Feed
from allround.training.settings import Settings


@dataclass(frozen=True)
class Validated:
    """One evaluation, in the order of the tasks. relative: scores relative to those before the first step, where
    higher is better. best: whether the state is to be kept as the best so far."""

    scores: list[float]
    losses: list[float]
    relative: list[float]
    best: bool


class ValidationState(TypedDict):
    """What is remembered of the evaluations so far."""

    first: list[float]
    best: dict[str, Tensor]
    best_mean: float
    best_heads: dict[str, dict[str, Tensor]]
    task_best: list[float]
    waits: list[int]


class Validation:
    """The evaluations of one training.

    feeds: of validation rows. precision: of matrix products. waits: for each task, the evaluations since it was best.
    best: the weights and buffers of the best state, on the CPU; best_heads: each task's own, where heads are restored.
    """

    def __init__(
        self, model: Model, tasks: Sequence[Task], feeds: Sequence[Feed], settings: Settings, precision: str
    ) -> None:
        self.model, self.tasks, self.feeds = model, list(tasks), list(feeds)
        self.settings, self.precision = settings, precision
        self.first: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.best_mean = -math.inf
        self.best_heads: dict[str, dict[str, Tensor]] = {}
        self.task_best = [-math.inf] * len(self.tasks)
        self.waits = [0] * len(self.tasks)

    def evaluate(self, weights: Mapping[str, Tensor]) -> Validated:
        """Score all tasks with the model as it is now. weights: all that training changes."""
        found = [self.validate(index) for index in range(len(self.tasks))]
        scores, losses = [score for score, _ in found], [loss for _, loss in found]
        self.first = self.first or scores
        relative = [
            relative_score(score, first, better(task.definition.metric))
            for score, first, task in zip(scores, self.first, self.tasks, strict=True)
        ]
        for index, (task, score) in enumerate(zip(self.tasks, relative, strict=True)):
            if score > self.task_best[index]:
                self.task_best[index], self.waits[index] = score, 0
                if self.settings.restore_heads:
                    self.best_heads[task.name] = _copies(self.model.own(task.name))
            else:
                self.waits[index] += 1
        mean = sum(relative) / len(relative)
        best = mean > self.best_mean or self.settings.keep == "last"
        if best:
            self.best_mean, self.best = mean, _copies(weights)
        return Validated(scores, losses, relative, best)

    def validate(self, index: int) -> tuple[float, float]:
        """Score and mean loss of a task on its validation rows."""
        task = self.tasks[index]
        definition, split = task.definition, task.splits["validation"]
        feed = next(f for f in self.feeds if index in f.tasks)
        rows = [i for i in range(len(feed.rows)) if feed.places[index][i] >= 0]
        split = split.take([int(feed.places[index][i]) for i in rows])
        with products(self.precision, self.settings.device):
            ready, scores = [feed.rows[i] for i in rows], needs_scores(definition.metric)
            answers, loss = self.model.validate(task.name, ready, split.targets, scores=scores)
        return score_of(definition, split.targets, answers.predictions, answers.scores), loss

    def is_stopped(self, index: int) -> bool:
        """Whether a task has not got better for as many evaluations as `patience` allows."""
        return self.settings.patience is not None and self.waits[index] >= self.settings.patience

    def restore_heads(self) -> list[str]:
        """Give a task the head that it had when it scored best, where that scores better with the final encoder; the
        names of those tasks."""
        restored = []
        for index, task in enumerate(self.tasks):
            own, direction = self.model.own(task.name), better(task.definition.metric)
            now, (score, _) = {n: v.detach().clone() for n, v in own.items()}, self.validate(index)
            copy_into(own, self.best_heads[task.name])
            again, _ = self.validate(index)
            if again > score if direction == "higher" else again < score:
                restored.append(task.name)
            else:
                copy_into(own, now)
        return restored

    def state(self) -> ValidationState:
        """What is remembered."""
        return {
            "first": self.first,
            "best": self.best,
            "best_mean": self.best_mean,
            "best_heads": self.best_heads,
            "task_best": self.task_best,
            "waits": self.waits,
        }

    def resume(self, state: ValidationState) -> None:
        """Go on with what another object of the same training remembered."""
        self.first, self.best, self.best_mean = state["first"], state["best"], state["best_mean"]
        self.best_heads, self.task_best, self.waits = state["best_heads"], state["task_best"], state["waits"]


def relative_score(score: float, first: float, direction: str) -> float:
    """A score as a share of the first one, above 1 where it is better.

    >>> relative_score(0.75, 0.5, "higher"), relative_score(0.5, 1.0, "lower")
    (1.5, 2.0)
    """
    small = 0.05  # keeps the ratio in bounds where the first score is about zero
    return score / max(first, small) if direction == "higher" else first / max(score, 1e-12)


def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Set tensors to the values of the same names, in place."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
