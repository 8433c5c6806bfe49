"""Test scores of all candidates beside the floor, in one scoreboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from allround.building.candidates import Candidate
from allround.building.jobs.predict import loaded_predictions
from allround.building.options import Options
from allround.building.single import floor
from allround.building.stages.choice import Choice, Scores
from allround.building.stages.plan import Scope
from allround.building.stages.predicting import predict, prediction_pieces
from allround.building.stages.reference import Reference
from allround.building.stages.tuning import SPECIALISTS
from allround.building.workshop import Workshop
from allround.core.words import plural
from allround.evaluation.calibration import CalibrationFacts, calibrated, facts_of, fit
from allround.evaluation.predictions import Predictions
from allround.evaluation.prompt_scores import PromptScores
from allround.evaluation.scoreboard import Notes, Scoreboard, ScoredSystem
from allround.evaluation.scoreboard.scores import AdaptedScore
from allround.models.calibration import Calibration
from allround.models.cost import Cost


@dataclass(frozen=True)
class Scored:
    """The scoreboard, and the predictions that it rests on by system and task.

    calibrations: of the chosen system, by task.
    """

    board: Scoreboard
    predictions: Mapping[tuple[str, str], Predictions]
    calibrations: Mapping[str, Calibration]

    def with_prompts(self, found: Sequence[PromptScores]) -> Scored:
        """The same, its board noting how systems score with each prompt of tasks that have several."""
        if not found:
            return self
        notes: Notes = {**self.board.notes, "prompts": [one.words for one in found]}
        return replace(self, board=replace(self.board, notes=notes))

    def with_adapted(self, found: Sequence[AdaptedScore], left_out: Mapping[str, str]) -> Scored:
        """The same, its board showing systems after a few rows of held-out tasks. left_out: words on the others."""
        notes: Notes = {**self.board.notes}
        for name, words in left_out.items():
            notes["tasks"] = {**notes.get("tasks", {}), name: [*notes.get("tasks", {}).get(name, []), words]}
        return replace(self, board=replace(self.board, adapted=list(found) or None, notes=notes))


def score(
    shop: Workshop,
    candidates: Sequence[Candidate],
    scope: Scope,
    validation: Scores,
    choice: Choice,
    reference: Reference,
    options: Options,
    *,
    provenance: Mapping[str, object],
    notes: Mapping[str, str] | None = None,
    rising: Sequence[str] = (),
    routing: Sequence[str] = (),
) -> Scored:
    """Predict the test rows once with every candidate, and score them.

    Scores are corrected by what was fitted on the validation rows of tasks that training may see. notes: of tasks,
    beside those of their data. rising: of specialists that were trained too short. routing: of routers left out.
    """
    data = scope.every
    predict(
        shop, candidates, scope.judged, "validation", scope.settings.device
    )  # a reference of parts has none of its own yet
    tally = predict(shop, candidates, data, "test", scope.settings.device)
    predictions: dict[tuple[str, str], Predictions] = {}
    systems = [ScoredSystem("floor", "floor", "majority class, or mean", cost=Cost())]
    for name, task in data.tasks.items():
        predictions["floor", name] = floor(task)
    calibrations: dict[str, Calibration] = {}
    best_of = reference.of if choice.best in reference.candidates else dict.fromkeys(data.tasks, choice.best.name)
    facts: dict[str, dict[str, CalibrationFacts]] = {}
    for candidate in candidates:
        held = prediction_pieces(shop.pieces, candidate, scope.data, "validation")
        for name, piece in prediction_pieces(shop.pieces, candidate, data, "test").items():
            found = loaded_predictions(piece)
            validated = loaded_predictions(held[name]) if name in held else None
            fitted = fit(validated, options.calibrate, options.coverage) if validated is not None else None
            predictions[candidate.name, name] = calibrated(found, fitted)
            if candidate.name in (choice.best.name, SPECIALISTS):
                known = facts_of(found, fitted)
                if known.before or known.sets:
                    facts.setdefault(candidate.name, {})[name] = known
            if candidate.name == best_of[name] and fitted is not None:
                calibrations[name] = fitted
    for own in reference.candidates:
        predictions |= {(own.name, name): predictions[one, name] for name, one in reference.of.items()}
    for candidate in (*candidates, *reference.candidates):
        made = [predictions[candidate.name, name] for name in data.tasks]
        seconds, rows = sum(one.seconds for one in made), sum(map(len, made))
        cost = candidate.cost(rows / seconds if seconds else None)
        systems.append(ScoredSystem(candidate.name, candidate.role, candidate.title, dict(candidate.settings),
                              candidate.single, cost))  # fmt: skip
    said: Notes = {}
    more = notes or {}
    if of_tasks := {n: [*t.notes, *([more[n]] if n in more else [])] for n, t in data.tasks.items()
                    if t.notes or n in more}:  # fmt: skip
        said["tasks"] = of_tasks
    if rising:
        said["training"] = list(rising)
    if routing:
        said["routing"] = list(routing)
    if scope.budget:
        said["budget"] = scope.budget
    if choice.words:
        said["choice"] = choice.words
    board = Scoreboard.make(
        data.definitions,
        systems,
        predictions,
        validation={(s, t): v for s, scores in validation.items() for t, v in scores.items()},
        reference=reference.name,
        best=choice.best.name,
        seed=shop.seed,
        resamples=options.resamples,
        notes=said,
        provenance=provenance,
    )
    shop.say(f"{plural(len(candidates), 'system')} scored on {plural(data.rows('test'), 'test row')}", tally)
    return Scored(replace(board, calibration=facts or None), predictions, calibrations)
