"""A model's predictions on a split, with the time they took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from allround.evaluation.predictions import Predictions
from allround.models.model import MultiTaskModel, outputs_alike
from allround.tasks.task import Task


def predict_split(
    model: MultiTaskModel, task: Task, split: str, *, batch_size: int = 64, prepared: list[Any] | None = None
) -> Predictions:
    """Predict every row of a split.

    prepared: the split's rows as the encoder prepared them, when the caller has them; then the time is that of
    the network alone.
    """
    started = time.perf_counter()
    if prepared is None:
        prepared = model.encoder.prepare(task.splits[split].inputs, task.definition)
    outputs = model.outputs_prepared(task.name, prepared, batch_size)
    encoded, confidence = model.predict_encoded(task.name, outputs)
    seconds = time.perf_counter() - started
    return Predictions(task.definition, split, task.splits[split].targets, encoded, confidence, seconds)


def predict_alike(
    models: Sequence[MultiTaskModel], task: Task, split: str, *, prepared: list[Any], batch_size: int = 64
) -> list[Predictions]:
    """Predict every row of a split with models that share one encoder, which reads each row once.

    The time of each is what it would take alone: that of the encoder and all heads.
    """
    started = time.perf_counter()
    found = [
        model.predict_encoded(task.name, outputs)
        for model, outputs in zip(models, outputs_alike(models, task.name, prepared, batch_size), strict=True)
    ]
    seconds = time.perf_counter() - started
    targets = task.splits[split].targets
    return [Predictions(task.definition, split, targets, *one, seconds) for one in found]
