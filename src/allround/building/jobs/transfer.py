"""A training that is measured and forgotten: its answers to validation rows are kept, its weights are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.building.jobs.rows import stored_task
from allround.core.growing import remove_empty
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions, score
from allround.models.base import load_encoder
from allround.models.device import pick_device
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.settings import Settings
from allround.training.trainer import train


def measure_run(
    piece: Piece,
    encoder: str,
    tasks: Sequence[str],
    settings: Mapping[str, object],
    seed: int,
) -> None:
    """Train a model on tasks, and keep what it answers on the validation rows of each.

    encoder: the folder that it starts from; heads are fitted on it first. tasks: the folders of the tasks.
    """
    chosen = Settings.from_json(dict(settings))
    data = [stored_task(folder) for folder in tasks]
    with piece.make() as (folder, facts):
        loaded = load_encoder(encoder)
        model = MultiTaskModel(loaded, {}).eval()
        for task in data:
            fitted = fit_head(loaded.to(pick_device(chosen.device)), task)
            model.add_heads({task.name: task.definition}, {task.name: fitted.state})
        course = train(model, data, chosen, seed=seed, scratch=piece.scratch)
        found = {task.name: predict_split(model, task, "validation") for task in data}
        for name, predicted in found.items():
            predicted.write(answers_of(folder, name))
        facts["validation"] = {name: score(predicted) for name, predicted in found.items()}
        facts["steps"], facts["seconds"] = course.steps, course.seconds
    remove_empty(piece.scratch)


def answers_of(folder: Path, task: str) -> Path:
    """The file of a run's answers to the validation rows of a task."""
    return folder / f"{task}.parquet"


def measured_answers(piece: Piece, task: str) -> Predictions:
    """What the model of a run answered on the validation rows of a task."""
    return Predictions.load(answers_of(piece.folder, task))
