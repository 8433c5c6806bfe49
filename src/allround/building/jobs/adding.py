"""Ways to add a task to a finished model, as jobs; the specialist that they are measured by; and answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from allround.building.jobs.predict import keep_predictions
from allround.building.jobs.rows import stored_task, without_test
from allround.continual.learning import Learner
from allround.continual.strategy import strategy_of
from allround.continual.stream import Arrival
from allround.core.errors import AllroundError
from allround.core.growing import remove_empty
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.models.base import load_encoder
from allround.models.device import pick_device
from allround.models.fitting import fit_head
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.training.settings import Settings
from allround.training.trainer import train

#: Where a piece holds the model.
MODEL = "model"


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
    before = {name: value.clone() for name, value in given.state_dict().items()}
    known = [without_test(stored_task(place)) for place in old]
    learner = Learner.go_on(given, plan, [one.as_defined(given.definition(one.name)) for one in known], seed=seed)
    started = time.perf_counter()
    with piece.make() as (folder, facts):
        learner.learn(
            Arrival(data.name, (data,)),
            plan,
            Settings.from_json(dict(settings)),
            seed=seed,
            scratch=piece.scratch,
            base=load_encoder(base) if plan.from_base else None,
            alone=load_encoder(f"{alone}/{MODEL}/encoder") if plan.merge is not None else None,
            fit=True,
        )
        made = learner.model
        made.facts = {}
        after = made.state_dict()
        if plan.exact and not all(torch.equal(after[name], value) for name, value in before.items()):
            raise AllroundError(f"add '{data.name}' by {strategy}", "it changed weights that it promised to leave",
                                "report this as a bug")  # fmt: skip
        (folder / MODEL).mkdir()
        made.write(folder / MODEL)
        facts["seconds"] = time.perf_counter() - started
        facts["steps"] = learner.steps
        facts["stored"] = made.cost().parameters_stored - stored
    remove_empty(piece.scratch)


def answer_tasks(pieces: Mapping[str, Piece], model: str, tasks: Mapping[str, str], split: str, device: str) -> None:
    """The answers of a saved system to a split of several tasks, a piece for each."""
    system = load(model).to(pick_device(device))
    for name, folder in tasks.items():
        if not pieces[name].done:
            task = stored_task(folder)
            predicted = predict_split(system, task.as_defined(system.definition(name)), split)
            with pieces[name].make() as (place, facts):
                keep_predictions(predicted, place, facts)
