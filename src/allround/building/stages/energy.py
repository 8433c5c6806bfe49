"""The energy of answering, beside what else systems cost."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from allround.building.candidates import Candidate
from allround.building.stages.data import Data
from allround.building.stages.scoring import Scored
from allround.building.workshop import Workshop
from allround.core.pieces import Piece
from allround.evaluation.power import has_meter, power
from allround.evaluation.predict import predict_split
from allround.evaluation.scoreboard import Notes
from allround.models.device import pick_device
from allround.models.system import load
from allround.tasks.task import Task

#: Rows of each task that are answered at most.
ROWS = 1000


def measure_energy(
    shop: Workshop, scored: Scored, candidates: Sequence[Candidate], data: Data, country: str, device: str
) -> Scored:
    """The same, with the energy of answering 1,000 test rows among the costs of each candidate, by the meter of this
    machine; each answers alone, one after the other. country: three letters. Where there is no meter, a note says so.
    """
    asked = f"measure the energy of answering, with the power of {country}"
    notes: Notes = {**scored.board.notes}
    if not has_meter(country, asked):
        notes["energy"] = ["The energy of answering was not measured: this machine gives no reading of its power."]
        shop.say(notes["energy"][0])
        return replace(scored, board=replace(scored.board, notes=notes))
    tasks = [_few(task) for task in data.tasks.values()]
    found: dict[str, Piece] = {}
    for candidate in candidates:
        piece = shop.pieces.piece(f"energy-{candidate.name}", system=candidate.keys, country=country,
                                  tasks=[task.content for task in tasks])  # fmt: skip
        found[candidate.name] = piece
        if not shop.have(piece):
            _measure(piece, candidate, tasks, country, device, asked)
    systems = []
    for system in scored.board.systems:
        facts = found[system.name].facts if system.name in found else {}
        systems.append(replace(system, cost=replace(system.cost, watt_hours=facts.get("watt_hours"),
                                                    carbon=facts.get("carbon"))))  # fmt: skip
    notes["energy"] = [
        "Wh are those of this machine while a system answers, for 1,000 rows in batches of 64, by its meters; loading "
        f"is not counted. Carbon is that of the power of {country}, by CodeCarbon."
    ]
    shop.say(f"energy of answering measured for {len(found)} systems")
    return replace(scored, board=replace(scored.board, systems=systems, notes=notes))


def _few(task: Task) -> Task:
    split = task.splits["test"]
    return replace(task, splits={**task.splits, "test": split.take(range(min(ROWS, len(split))))}, table=None)


def _measure(piece: Piece, candidate: Candidate, tasks: Sequence[Task], country: str, device: str, asked: str) -> None:
    """Write a candidate, load it, and let it answer all tasks in turn."""
    with piece.make() as (folder, facts):
        (folder / "system").mkdir()
        candidate.write(folder / "system", {task.name: task.definition for task in tasks}, {})
        system = load(folder / "system", device=pick_device(device).type)
        shutil.rmtree(folder / "system")
        own = [task.as_defined(system.definition(task.name)) for task in tasks]
        read = power(lambda: sum(len(predict_split(system, task, "test")) for task in own), country, asked)
        facts.update(watt_hours=read.watt_hours, carbon=read.carbon)
