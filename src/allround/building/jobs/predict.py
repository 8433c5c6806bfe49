"""Predictions of models that share one encoder, as pieces."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from allround.building.jobs.assemble import with_heads
from allround.building.jobs.rows import prepared_rows, stored_task
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_alike
from allround.evaluation.predictions import Predictions, score
from allround.models.base import load_encoder
from allround.models.device import pick_device
from allround.models.systems.multi_task_model import MultiTaskModel

#: The file of predictions in their piece.
PREDICTIONS = "predictions.parquet"


def predict(
    pieces: Sequence[Mapping[str, Piece]],
    source: str,
    own: Sequence[Mapping[str, str]],
    tasks: Mapping[str, str],
    split: str,
    device: str,
) -> None:
    """Predictions of models that share one encoder, on a split of several tasks; a piece for each model and task.

    The encoder reads each row once, whatever the number of models. pieces: of each model, by task. source: the folder
    of the encoder. own: the folders of each model's heads, by task. tasks: the folders of the tasks, by name.
    """
    loaded, listed = load_encoder(source), [stored_task(f) for f in tasks.values()]
    models = [with_heads(loaded, one, listed).to(pick_device(device)) for one in own]
    for name, folder in tasks.items():
        todo = [(made[name], model) for made, model in zip(pieces, models, strict=True) if not made[name].done]
        if todo:
            _predict_into(todo, folder, split)


def _predict_into(todo: Sequence[tuple[Piece, MultiTaskModel]], task_folder: str, split: str) -> None:
    task = stored_task(task_folder)
    alike: dict[Hashable, list[tuple[Piece, MultiTaskModel]]] = {}
    for piece, model in todo:
        alike.setdefault(model.reading(task.name), []).append((piece, model))
    for together in alike.values():
        _predict_alike(together, task_folder, split)


def _predict_alike(todo: Sequence[tuple[Piece, MultiTaskModel]], task_folder: str, split: str) -> None:
    rows = prepared_rows(todo[0][1], task_folder, split)
    found = predict_alike([model for _, model in todo], stored_task(task_folder), split, prepared=rows)
    for (piece, _), predicted in zip(todo, found, strict=True):
        with piece.make() as (folder, facts):
            keep_predictions(predicted, folder, facts)


def keep_predictions(predicted: Predictions, folder: Path, facts: dict[str, Any]) -> None:
    """Put predictions, and what is known of them, into a piece that is being made."""
    predicted.write(folder / PREDICTIONS)
    facts["score"] = score(predicted)
    facts["seconds"] = predicted.seconds
    facts["rows"] = len(predicted)


def loaded_predictions(piece: Piece) -> Predictions:
    """The predictions that a piece holds."""
    return Predictions.load(piece.folder / PREDICTIONS)
