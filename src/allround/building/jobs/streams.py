"""One course of a strategy through a stream: arrival after arrival, each answered before the next one comes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from allround.building.jobs.rows import stored_task, without_test
from allround.checkpoints.weights import Weights
from allround.composition.router import plain_vectors
from allround.continual.learner import StreamLearner, begin
from allround.continual.results import overlap
from allround.continual.rows import Memory
from allround.continual.strategy import Strategy, strategy_of
from allround.continual.stream import Arrival
from allround.continual.systems.grown import Grown
from allround.core.files import check_files, hash_files, read_json, write_json
from allround.core.pieces import Piece
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions, score
from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.fitting import fit_head
from allround.models.head import OutputHead
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.terms.ogd import gradients_of_answers

#: What is written down after each arrival: scores of the tasks of each arrival so far; of systems that pick the arrival
#: of a row, how often they are right, and the scores if they were told it; scores of the tasks of the arrival that
#: comes next, where they can be answered by now; bytes and rows that are remembered, seconds and steps since the start.
COURSE = ("scores", "picked", "oracle", "ahead", "bytes", "rows", "seconds", "steps")
#: Rows of an arrival that are compared with those of others: by features, and by gradients of so many weights.
OVERLAP, GRADIENTS, WEIGHTS = 200, 30, 200_000
#: What a course holds after an arrival, and in the end.
MODEL, MEMORY, REMEMBERED, ANSWERS, STATE = "model", "memory", "remembered.safetensors", "answers", "state.json"


def run_course(
    piece: Piece,
    encoder: str,
    arrivals: Sequence[tuple[str, Sequence[str]]],
    strategy: str,
    values: Mapping[str, object],
    settings: Mapping[str, object],
    seed: int,
    fit: bool,
    pieces: int = 1,
) -> None:
    """Let a strategy learn one arrival after another, and after each answer the test rows of all so far.

    encoder: the folder of the base. arrivals: the name of each and the folders of its tasks. fit: see
    `StreamLearner.learn`. pieces: each arrival comes in so many, and nothing tells where it ends. What is done is kept
    in the piece's scratch folder after each arrival, so that a killed course goes on there. A strategy is handed the
    training and validation rows of one arrival at a time, and no test rows.
    """
    chosen, plan = Settings.from_json(dict(settings)), strategy_of(strategy, values)
    scratch = piece.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    done, learner = _latest(scratch, encoder, plan)
    for number in range(done, len(arrivals)):
        name, folders = arrivals[number]
        tasks = tuple(map(without_test, map(stored_task, folders)))
        base = load_encoder(encoder) if plan.from_base else None
        whole = Arrival(name, tasks)
        for one in whole.pieces(pieces, number * pieces) if pieces > 1 else [whole]:
            learner.learn(one, plan, chosen, seed=seed, scratch=scratch / "training", base=base, fit=fit)
        so_far = arrivals[: number + 1]
        further: dict[str, list[Any]] = {"ahead": _ahead(learner.system, arrivals[number + 1 : number + 2])}
        further |= _picks(learner.system, so_far, named=pieces == 1)
        _keep(scratch, number, learner, _answers(learner.system, so_far), further)
    with piece.make() as (folder, facts):
        last = scratch / _name(len(arrivals))
        shutil.copytree(last, folder, ignore=lambda *_: [STATE], dirs_exist_ok=True)
        facts.update({name: value for name, value in read_json(last / STATE).items() if name != "files"})
    shutil.rmtree(scratch)


def measure_overlap(piece: Piece, encoder: str, arrivals: Sequence[tuple[str, Sequence[str]]]) -> None:
    """How alike the arrivals are to the base, by `overlap` of the features of at most `OVERLAP` of their training rows,
    and by that of `network_gradients`, which is the NTK overlap; nothing where rows have none."""
    base = load_encoder(encoder)
    found, slopes = [], []
    for _, folders in arrivals:
        tasks = list(map(stored_task, folders))
        splits = [(task, task.splits["train"].inputs[:OVERLAP]) for task in tasks]
        found.append(torch.cat([plain_vectors(base, task.definition, rows) for task, rows in splits if rows]))
        slopes.append([network_gradients(base, task, GRADIENTS // len(tasks)) for task in tasks])
    whole = [[one for one in some if one is not None] for some in slopes]
    with piece.make() as (_, facts):
        facts["overlap"] = overlap([one.double().numpy() for one in found]).tolist()
        complete = all(len(some) == len(given) for some, given in zip(whole, slopes, strict=True))
        facts["kernel"] = overlap([torch.cat(some).double().numpy() for some in whole],
                                  centred=False).tolist() if complete else None  # fmt: skip


def network_gradients(base: Encoder, task: Task, rows: int) -> Tensor | None:
    """The gradients of the outputs of some training rows' labels by the weights of an encoder, (n, weights), under a
    head that is fitted on it; of more than `WEIGHTS` numbers so many are drawn, the same ones each time. None where the
    task's head gives no outputs, or the encoder has no weights."""
    model = MultiTaskModel(base, {task.name: task.definition})
    weights = {name: p for name, p in model.shared().items() if p.is_floating_point()}
    if not isinstance(model.head(task.name), OutputHead) or not weights:
        return None
    model = MultiTaskModel(base, {})
    model.add_task(task.definition, fit_head(base, task).state)
    for p in weights.values():
        p.requires_grad_(True)
    count = sum(p.numel() for p in weights.values())
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:WEIGHTS].sort().values
    split, found = task.splits["train"], []
    for row in range(min(max(rows, 1), len(split))):
        one = replace(task, splits={**task.splits, "train": split.take([row])}, table=None)
        slopes = gradients_of_answers(model, one, weights, 1)
        found.append(torch.cat([slopes[name].flatten() for name in weights])[kept])
    return torch.stack(found)


def course_answers(piece: Piece, after: int, of: int) -> list[Predictions]:
    """What the model answered to the test rows of one arrival after another one; a task each."""
    places = sorted((piece.folder / ANSWERS).glob(f"{after}-{of}-*.parquet"))
    return [Predictions.load(place) for place in places]


def _name(done: int) -> str:
    return f"after-{done:03d}"


def _answers(system: System, arrivals: Sequence[tuple[str, Sequence[str]]]) -> dict[tuple[int, int], Predictions]:
    """The answers to the test rows of each arrival, by its number and that of the task in it."""
    found = {}
    for number, (_, folders) in enumerate(arrivals):
        for place, task in enumerate(map(stored_task, folders)):
            asked = task.as_defined(replace(task.definition, **_facts(system, task)))
            found[number, place] = predict_split(system, asked, "test")
    return found


def _facts(system: System, task: Task) -> dict[str, Any]:
    known = system.definition(task.name)
    return {"labels": known.labels, "center": known.center, "scale": known.scale, "weights": known.weights}


def _picks(system: System, arrivals: Sequence[tuple[str, Sequence[str]]], named: bool) -> dict[str, list[list[float]]]:
    """For the tasks of each arrival the share of test rows that are taken to be of it, and the score where all are;
    nothing for a system that is told of, or does not ask for, the arrival of a row. named: whether its parts are those
    of arrivals; nothing where they are not."""
    found: dict[str, list[list[float]]] = {"picked": [], "oracle": []}
    for number, (_, folders) in enumerate(arrivals):
        for values in found.values():
            values.append([])
        if not isinstance(system, Grown) or not named:
            continue
        for task in map(stored_task, folders):
            rows = task.splits["test"].inputs
            picked = system.picked(task.name, rows) if len(rows) else None
            if picked is None:
                continue
            system.told = number
            told = predict_split(system, task.as_defined(replace(task.definition, **_facts(system, task))), "test")
            system.told = None
            found["picked"][-1].append(sum(one == number for one in picked) / len(picked))
            found["oracle"][-1].append(score(told))
    return found


def _ahead(system: System, arrivals: Sequence[tuple[str, Sequence[str]]]) -> list[float]:
    """The scores on the test rows of tasks that the system has not learned yet, but asks the same; none where one of
    them is new, or has new labels."""
    tasks = [stored_task(folder) for _, folders in arrivals for folder in folders]
    known = system.definitions
    if not all(task.name in known and set(task.definition.labels) <= set(known[task.name].labels) for task in tasks):
        return []
    asked = [task.as_defined(replace(task.definition, **_facts(system, task))) for task in tasks]
    return [score(predict_split(system, one, "test")) for one in asked]


def _keep(
    scratch: Path,
    number: int,
    learner: StreamLearner,
    answers: Mapping[tuple[int, int], Predictions],
    further: Mapping[str, Sequence[object]],
) -> None:
    """Keep what a course has after an arrival, in one step; what it had before is removed then."""
    new, before = scratch / f".{_name(number + 1)}", scratch / _name(number)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    (new / MODEL).mkdir()
    learner.system.write(new / MODEL)
    if learner.memory.tasks:
        learner.memory.write(new / MEMORY)
    if learner.remembered:
        save_file({name: value.contiguous() for name, value in learner.remembered.items()}, new / REMEMBERED)
    files = hash_files(new)
    (new / ANSWERS).mkdir()
    state = read_json(before / STATE) if before.is_dir() else {what: [] for what in COURSE}
    if before.is_dir():
        for path in (before / ANSWERS).iterdir():
            shutil.copyfile(path, new / ANSWERS / path.name)
    row: list[list[float]] = [[] for _ in range(number + 1)]
    for (of, place), one in answers.items():
        one.write(new / ANSWERS / f"{number}-{of}-{place}.parquet")
        row[of].append(score(one))
    state["scores"].append(row)
    for what, values in further.items():
        state[what].append(values)
    state["bytes"].append(learner.bytes)
    state["rows"].append(learner.memory.rows)
    state["seconds"].append(learner.seconds)
    state["steps"].append(learner.steps)
    state["stored"], state["files"] = learner.stored, files
    write_json(new / STATE, state)
    new.rename(scratch / _name(number + 1))
    shutil.rmtree(before, ignore_errors=True)


def _latest(scratch: Path, encoder: str, plan: Strategy) -> tuple[int, StreamLearner]:
    """How many arrivals are learned, and the learner after them."""
    found = sorted(scratch.glob("after-*"))
    learner = begin(load_encoder(encoder), plan)
    if not found:
        return 0, learner
    last = found[-1]
    do = "delete that folder: the course begins anew"
    check_files(last, read_json(last / STATE)["files"], f"go on with the course in {last}", do)
    learner.adopt(load(last / MODEL))
    learner.memory = Memory.load(last / MEMORY)
    if (last / REMEMBERED).is_file():
        kept = Weights(last / REMEMBERED)
        learner.recall({name: kept.get(name) for name in kept})
    state = read_json(last / STATE)
    learner.steps, learner.seconds = state["steps"][-1], state["seconds"][-1]
    return int(last.name.removeprefix("after-")), learner
