"""Held-out tasks after a few rows: systems are tuned on them, by the recipe of the specialists, and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.building.candidates import Candidate, ModelCandidate
from allround.building.jobs import adapt as jobs
from allround.building.jobs.predict import loaded_predictions
from allround.building.judge import Judge
from allround.building.stages.base import Base
from allround.building.stages.choice import Scores
from allround.building.stages.data import Data, keep_rows
from allround.building.stages.heads import head_work
from allround.building.stages.plan import Scope
from allround.building.stages.unseen import Unseen
from allround.building.workshop import Work, Workshop, keys
from allround.core.jobs import call
from allround.core.pieces import Piece
from allround.core.seeds import seed_of
from allround.core.words import listed, plural
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard.adapted import AdaptedPair, adapted_scores
from allround.evaluation.scoreboard.scores import AdaptedScore
from allround.models.base import load_encoder
from allround.models.untrained import needs_training
from allround.tasks.few import few_of
from allround.tasks.roles import HELD_OUT
from allround.tasks.task import Task

#: What the joint model is called that is adapted beside base and best single model.
JOINT = "joint"


@dataclass(frozen=True)
class Adapted:
    """What adapting gives: scores before and after, and the tasks that could not be adapted to, with the reason."""

    scores: list[AdaptedScore]
    left_out: Mapping[str, str]


def put_off(data: Data, base: Base, sort: str | None) -> tuple[Data, Data]:
    """Tasks that nothing is trained on, parted: those that the base answers as it is, and held-out ones whose heads
    must be trained first, for which there are training rows. sort: of all heads."""
    held = to_adapt(data.tasks)
    if not held:
        return data, data.part([])
    encoder = load_encoder(base.encoder)
    later = [name for name in held if needs_training(encoder, data.definitions[name], sort)]
    return data.part([name for name in data.tasks if name not in later]), data.part(later)


def to_adapt(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """The held-out tasks that systems can be adapted to."""
    return {n: task for n, task in tasks.items() if task.definition.role == HELD_OUT and lack(task) is None}


def lack(task: Task) -> str | None:
    """Why no system can be adapted to a task; None where it can.

    A choice of the state needs validation rows, and none may be taken from test.
    """
    missing = [name for name in ("train", "validation") if not len(task.splits[name])]
    return f"not adapted to: it has no {' and no '.join(missing)} rows" if missing else None


def systems_to_adapt(
    candidates: Sequence[Candidate], base: ModelCandidate, best: Candidate, validation: Scores, judge: Judge
) -> list[ModelCandidate]:
    """The base, the joint model, and the best single model: the chosen one, or the best on validation where a system of
    another sort was chosen. Of systems that share an encoder the first."""
    single = [one for one in candidates if isinstance(one, ModelCandidate) and one.single]
    chosen = best if best in single else max(single, key=lambda one: judge.mean(validation[one.name]))
    asked = [base, *(one for one in single if one.name in (JOINT, chosen.name))]
    return list({one.encoder: one for one in reversed(asked)}.values())[::-1]


def adapt(
    shop: Workshop,
    scope: Scope,
    systems: Sequence[ModelCandidate],
    unseen: Unseen,
    later: Data,
    rows: int,
    predictions: Mapping[tuple[str, str], Predictions],
    *,
    resamples: int,
) -> Adapted:
    """Adapt each system to each held-out task on the same rows of it, drawn by the seed with the labels in their
    shares, and score it.

    systems: the base first. unseen, later: tasks that are answered without training, and the others. rows: training
    rows, and validation rows at most. predictions: on the test rows, before.
    """
    every = {**unseen.data.tasks, **later.tasks}
    held = {name: task for name, task in every.items() if task.definition.role == HELD_OUT}
    left_out = {name: words for name, task in held.items() if (words := lack(task)) is not None}
    for name, words in left_out.items():
        shop.say(f"{name}: {words}", style="yellow")
    seed = seed_of(shop.seed, "adapt")
    data = keep_rows(shop, {name: few_of(task, rows, seed) for name, task in held.items() if name not in left_out})
    if not data.tasks:
        return Adapted([], left_out)
    pieces: dict[tuple[str, str], Piece] = {}
    work: list[Work] = []
    for system in systems:
        key = next(iter(system.keys.values()))
        heads = {name: unseen.heads[name] for name in data.tasks if name in unseen.heads}
        new = data.part([name for name in data.tasks if name not in heads])
        made, fitting = head_work(shop, new, str(system.encoder), key, scope.settings.device, "adapted-head",
                                  scope.head)  # fmt: skip
        if fitting:
            shop.do(f"heads of held-out tasks on {system.name}", fitting)
        heads |= made
        for name, task in data.tasks.items():
            piece = shop.pieces.piece(f"adapted-{system.name}-{name}", encoder=key, head=keys(heads)[name],
                                      task=task.content, settings=scope.settings.to_json(), seed=seed)  # fmt: skip
            job = call(jobs.adapt, piece=piece, encoder=str(system.encoder), head=str(heads[name].folder),
                       task=data.folders[name], settings=scope.settings.to_json(),
                       seed=seed_of(seed, "tune", name))  # fmt: skip
            pieces[system.name, name] = piece
            work.append((piece, job))
    tally = shop.do("adapting to held-out tasks", work)
    names = listed([system.name for system in systems])
    shop.say(f"{names} adapted to {plural(len(data.tasks), 'held-out task')}, on at most {plural(rows, 'row')} of each",
             tally)  # fmt: skip
    pairs = {
        (system, name): AdaptedPair(
            predictions.get((system, name)),
            loaded_predictions(pieces[system, name]),
            *(len(task.splits[split]) for split in ("train", "validation")),
        )
        for name, task in data.tasks.items()
        for system in [one.name for one in systems]
    }
    return Adapted(adapted_scores(pairs, systems[0].name, seed=shop.seed, resamples=resamples), left_out)
