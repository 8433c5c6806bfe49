"""Ways to add a task to a finished model, as jobs; the specialist that they are measured by; and answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from allround.building.jobs.predict import keep_predictions
from allround.building.jobs.rows import stored_task, without_test
from allround.continual.learner import learner_of
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival
from allround.core.errors import AllroundError
from allround.core.growing import remove_empty
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.models.base import load_encoder
from allround.models.calibration import KEY
from allround.models.device import pick_device
from allround.models.fitting import fit_head
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.kind import kind
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

#: Where a piece holds the model.
MODEL = "model"
#: Rows by which it is checked that old answers did not change.
FEW = 16


def tune_specialist(piece: Piece, base: str, task: str, settings: Mapping[str, object], seed: int) -> None:
    """A model tuned on one task alone. base: the folder of the encoder to begin from."""
    data = without_test(stored_task(task))
    with piece.make() as (folder, facts):
        model = MultiTaskModel(load_encoder(base), {})
        model.add_task(replace(data.definition, head=""), fit_head(model.encoder, data).state)
        course = train(model, [data], Settings.from_json(dict(settings)), seed=seed, scratch=piece.scratch)
        (folder / MODEL).mkdir()
        model.write(folder / MODEL)
        facts["seconds"] = course.seconds
        facts["examples"] = sum(course.examples.values())
    remove_empty(piece.scratch)


def add_by(
    piece: Piece,
    model: str,
    task: str,
    old: Sequence[str],
    strategy: str,
    values: Mapping[str, object],
    settings: Mapping[str, object],
    base: str,
    alone: str,
    seed: int,
) -> None:
    """A finished model that learned a further task by a strategy.

    model: its folder. task, old: the folders of the new task and of old ones. base: the folder of an encoder to begin
    from, where the strategy begins there; alone: the folder of the specialist.
    """
    plan = strategy_of(strategy, values)
    given, data = open_model(model), without_test(stored_task(task))
    stored = given.cost().parameters_stored
    known = [without_test(stored_task(place)) for place in old]
    known = [one.as_defined(given.definition(one.name)) for one in known]
    before = some_answers(given, [data, *known]) if plan.exact else {}
    learner = learner_of(plan).go_on(given, plan, known, seed=seed)
    more = {"alone": load_encoder(f"{alone}/{MODEL}/encoder")} if plan.merge is not None else {}
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        learner.learn(
            Arrival(data.name, (data,)),
            plan,
            Settings.from_json(dict(settings)),
            seed=seed,
            scratch=piece.scratch,
            base=load_encoder(base) if plan.from_base else None,
            fit=True,
            **more,
        )
        made = learner.system
        made.facts = {KEY: given.facts[KEY]} if plan.exact and KEY in given.facts else {}
        if plan.exact and some_answers(made, [data, *known]) != before:
            raise AllroundError(f"add '{data.name}' by {strategy}", "it changed answers that it promised to leave",
                                "report this as a bug")  # fmt: skip
        (folder / MODEL).mkdir()
        made.write(folder / MODEL)
        facts["seconds"] = time.perf_counter() - started
        facts["steps"] = learner.steps
        facts["stored"] = made.cost().parameters_stored - stored
    remove_empty(piece.scratch)


def some_answers(system: System, tasks: Sequence[Task]) -> dict[tuple[str, str], list[object]]:
    """What each task that a system knows answers to the first validation rows of some tasks, as far as it can read
    them: every bit of it, for comparing.

    tasks: the new one first, whose own answers are left out.
    """
    found: dict[tuple[str, str], list[object]] = {}
    for name, definition in system.definitions.items():
        for task in tasks:
            same = (task.definition.inputs, task.definition.modality) == (definition.inputs, definition.modality)
            if name != tasks[0].name and same:
                rows = task.splits["validation"].inputs[:FEW]
                made = system.answers(name, rows, scores=kind(definition.kind).labelled)
                scores = made.predictions if made.scores is None else made.scores
                found[name, task.name] = [np.asarray(one).tolist() for one in scores]
    return found


def answer_tasks(pieces: Mapping[str, Piece], model: str, tasks: Mapping[str, str], split: str, device: str) -> None:
    """The answers of a saved system to a split of several tasks, a piece for each."""
    system = load(model).to(pick_device(device))
    for name, folder in tasks.items():
        if not pieces[name].done:
            task = stored_task(folder)
            predicted = predict_split(system, task.as_defined(system.definition(name)), split)
            with pieces[name].make() as (place, facts):
                keep_predictions(predicted, place, facts)
