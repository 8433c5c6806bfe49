"""A system adapted to a task that it was not trained on, and its predictions there."""

from __future__ import annotations

from collections.abc import Mapping

from allround.building.jobs.assemble import assemble
from allround.building.jobs.predict import PREDICTIONS
from allround.building.jobs.rows import stored_task
from allround.core.growing import remove_empty
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import score
from allround.training.settings import Settings
from allround.training.trainer import train


def adapt(piece: Piece, encoder: str, head: str, task: str, settings: Mapping[str, object], seed: int) -> None:
    """Tune an encoder on the training rows of a task, choose the state on its validation rows, and predict its test
    rows. The predictions are kept, and the model is not. head: the folder of the head that it begins with."""
    data = stored_task(task)
    with piece.make() as (folder, facts):
        model = assemble(encoder, {data.name: head}, [data])
        course = train(model, [data], Settings.from_json(dict(settings)), seed=seed, scratch=piece.scratch)
        predicted = predict_split(model, data, "test")
        predicted.write(folder / PREDICTIONS)
        facts["score"] = score(predicted)
        facts["evaluations"] = course.evaluations
        facts["best_step"] = course.best_step
        facts["steps"] = course.steps
        facts["seconds"] = course.seconds + predicted.seconds
    remove_empty(piece.scratch)
