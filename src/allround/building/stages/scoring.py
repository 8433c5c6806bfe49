"""Test scores of all candidates beside the floor, in one scoreboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.building.candidates import Candidate
from allround.building.jobs.predict import loaded_predictions
from allround.building.single import floor
from allround.building.stages.choice import Choice, Scores
from allround.building.stages.plan import Scope
from allround.building.stages.predicting import predict, prediction_pieces
from allround.building.workshop import Workshop
from allround.core.words import plural
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Notes, Scoreboard, ScoredSystem
from allround.models.cost import Cost


@dataclass(frozen=True)
class Scored:
    """The scoreboard, and the predictions that it rests on by system and task."""

    board: Scoreboard
    predictions: Mapping[tuple[str, str], Predictions]


def score(
    shop: Workshop,
    candidates: Sequence[Candidate],
    scope: Scope,
    validation: Scores,
    choice: Choice,
    *,
    resamples: int,
    provenance: Mapping[str, object],
    notes: Mapping[str, str] | None = None,
) -> Scored:
    """Predict the test rows once with every candidate, and score them. notes: of tasks, beside those of their data."""
    data = scope.data
    tally = predict(shop, candidates, data, "test", scope.settings.device)
    predictions: dict[tuple[str, str], Predictions] = {}
    systems = [ScoredSystem("floor", "floor", "majority class, or mean", cost=Cost())]
    for name, task in data.tasks.items():
        predictions["floor", name] = floor(task)
    for candidate in candidates:
        seconds, rows = 0.0, 0
        for name, piece in prediction_pieces(shop.pieces, candidate, data, "test").items():
            predictions[candidate.name, name] = loaded_predictions(piece)
            seconds, rows = seconds + piece.facts["seconds"], rows + piece.facts["rows"]
        cost = candidate.cost(rows / seconds if seconds else None)
        systems.append(ScoredSystem(candidate.name, candidate.role, candidate.title, dict(candidate.settings),
                              candidate.single, cost))  # fmt: skip
    said: Notes = {}
    more = notes or {}
    if of_tasks := {n: [*t.notes, *([more[n]] if n in more else [])] for n, t in data.tasks.items()
                    if t.notes or n in more}:  # fmt: skip
        said["tasks"] = of_tasks
    if scope.budget:
        said["budget"] = scope.budget
    if choice.words:
        said["choice"] = choice.words
    board = Scoreboard.make(
        data.definitions,
        systems,
        predictions,
        validation={(s, t): v for s, scores in validation.items() for t, v in scores.items()},
        best=choice.best.name,
        seed=shop.seed,
        resamples=resamples,
        notes=said,
        provenance=provenance,
    )
    shop.say(f"{plural(len(candidates), 'system')} scored on {plural(data.rows('test'), 'test row')}", tally)
    return Scored(board, predictions)
