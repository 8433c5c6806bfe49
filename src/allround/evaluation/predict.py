"""A system's predictions on a split, with the time they took."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from allround.evaluation.predictions import Predictions
from allround.models.batch import Answers
from allround.models.model import Model, Prepared
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel, answer_alike
from allround.tasks.kind import kind
from allround.tasks.task import Task


def predict_split(
    system: System, task: Task, split: str, *, batch_size: int = 64, prepared: Sequence[Prepared] | None = None
) -> Predictions:
    """Predict every row of a split.

    The probabilities of the labels are kept where the kind has labels. prepared: the split's rows as
    the model prepared them, when the caller has them; then the time is that of the network alone.
    """
    started = time.perf_counter()
    rows = task.splits[split].inputs
    if not len(rows):
        return _predictions(task, split, _none(task), started)
    scores = kind(task.definition.kind).labelled
    if prepared is not None and isinstance(system, Model):
        made = system.answer_prepared(task.name, prepared, batch_size=batch_size, scores=scores)
    else:
        made = system.answers(task.name, rows, batch_size=batch_size, scores=scores)
    return _predictions(task, split, made, started)


def predict_alike(
    models: Sequence[MultiTaskModel], task: Task, split: str, *, prepared: Sequence[Prepared], batch_size: int = 64
) -> list[Predictions]:
    """Predict every row of a split with models that share one encoder, which reads each row once.

    The time of each is what it would take alone: that of the encoder and all heads.
    """
    started = time.perf_counter()
    if not len(prepared):
        return [_predictions(task, split, _none(task), started) for _ in models]
    scores = kind(task.definition.kind).labelled
    found = answer_alike(models, task.name, prepared, batch_size=batch_size, scores=scores)
    seconds = time.perf_counter() - started
    return [_predictions(task, split, made, started, seconds) for made in found]


def _predictions(task: Task, split: str, made: Answers, started: float, seconds: float | None = None) -> Predictions:
    taken = time.perf_counter() - started if seconds is None else seconds
    targets = task.splits[split].targets
    scores = made.scores if made.scores is None or isinstance(made.scores, list) else np.asarray(made.scores)
    return Predictions(task.definition, split, targets, made.predictions, made.confidence, taken, scores)


def _none(task: Task) -> Answers:
    return Answers(kind(task.definition.kind).encode([], task.definition))
