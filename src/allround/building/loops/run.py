"""Carrying out a loop: the stages, the choice on validation, the model that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.building.jobs.assemble import assemble
from allround.building.loops.loop import Loop
from allround.building.loops.rounds import Round, RoundRecord, Rounds, first_round, next_round
from allround.building.options import Options
from allround.building.saving import cell_facts
from allround.building.single import board_of
from allround.building.stages.base import decide_precision, is_module, make_base
from allround.building.stages.data import keep_rows
from allround.building.stages.heads import Start, fit_heads
from allround.building.workshop import Workshop, run_folder
from allround.core import registry
from allround.core.growing import remove_work
from allround.core.jobs import quiet_libraries
from allround.core.outputs import check_out, output_folder
from allround.core.progress import Progress
from allround.evaluation.scoreboard import Scoreboard
from allround.models.device import pick_device
from allround.tasks.suite import Suite
from allround.training.course import Course
from allround.training.settings import Settings

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Looped:
    """What a loop leaves: the model's folder, its test scores, what each round gave, and the round that was kept."""

    folder: Path
    scoreboard: Scoreboard
    rounds: list[RoundRecord]
    kept: int


def plan_loop(
    name: str, suite: Suite, parameters: Mapping[str, object] | None = None, values: Mapping[str, object] | None = None
) -> Loop:
    """The loop that a preset makes for a suite. values: parameters of its merge method."""
    entry = registry.find("loop", name)
    made: Loop = entry.load()(list(suite.tasks), dict(values or {}), **entry.resolve(parameters or {}))
    return made


def run_loop(
    loop: Loop,
    suite: Suite,
    *,
    out: Path | str,
    base: str | Path | nn.Module | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    workers: int | None = None,
    encoder: Mapping[str, object] | None = None,
    facts: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Looped:
    """Tune and merge in rounds, keep the round that is best on validation, save it into `out`, and score it on test.

    settings: `epochs` is the budget of all rounds together, so that a loop takes each row as often as one training
    does; a copy is handed in as it is at the end of its part. facts: more to write into the model's allround.json.
    Unfinished work is kept in `out`.unfinished: the same call after a kill goes on with the next unfinished piece.
    A folder that is there is replaced only where `loop` wrote it and nothing was changed since, or with `force`.
    """
    quiet_libraries()
    base = suite.own_base(f"tune and merge on '{suite.name}'") if base is None else base
    out = check_out(out, "loop", force=force, inputs=[base], data=suite.files)
    settings = settings or Settings()
    pick_device(settings.device)
    work = out.parent / f"{out.name}.unfinished"
    options = Options(settings=settings, seed=seed, workers=workers)
    with run_folder(work, "loop", force=force):
        shop = Workshop(work, progress or Progress(), seed=seed, workers=options.workers, in_process=is_module(base),
                        force=force)  # fmt: skip
        with shop:
            carried = carry_out(shop, loop, suite, base, settings, encoder or {})
        board = save_kept(out, carried, suite, facts or {}, force=force)
        shop.pieces.remove()
    remove_work(work)
    return Looped(out, board, [one.record for one in carried.rounds], carried.kept)


@dataclass(frozen=True)
class Carried:
    """A loop that was carried out. settings: their precision decided. kept: the number of the best round."""

    start: Start
    settings: Settings
    seed: int
    rounds: list[Round]
    kept: int


def carry_out(
    shop: Workshop,
    loop: Loop,
    suite: Suite,
    given: str | Path | nn.Module,
    settings: Settings,
    encoder: Mapping[str, object],
) -> Carried:
    """The stages, from the rows to the choice of the round that is best on the validation rows of the judged tasks."""
    data = keep_rows(shop, suite.tasks)
    base = make_base(shop, given, data, encoder, shop.seed)
    settings = decide_precision(shop, settings).settings
    start = fit_heads(shop, data, base, settings.device)
    rounds = Rounds(shop, start, loop, settings)
    made = [first_round(rounds)]
    for _ in range(loop.rounds):
        made.append(next_round(rounds, made))
    means = [one.mean for one in made]
    kept = means.index(max(means))
    shop.say(f"kept round {kept}, the best on validation")
    return Carried(start, settings, shop.seed, made, kept)


def save_kept(out: Path, carried: Carried, suite: Suite, facts: Mapping[str, object], *, force: bool) -> Scoreboard:
    """Write the model of the round that is kept, and score it on test. facts: more to write into it."""
    start, settings, rounds, kept = carried.start, carried.settings, carried.rounds, carried.kept
    state, tasks = str(rounds[kept].piece.folder), start.data.tasks
    model = assemble(f"{state}/encoder", dict.fromkeys(tasks, state), list(tasks.values()))
    model.to(pick_device(settings.device))
    records = [one.record for one in rounds]
    tuned = [branch for record in records for branch in record["branches"].values()]
    course = Course(examples=Counter(), seconds=start.seconds + sum(one["seconds"] for one in tuned))
    for branch in tuned:
        course.examples.update(branch["examples"])
    with output_folder(out, "loop", force=force) as folder:
        board = board_of(model, suite, "test", "loop", course)
        model.facts = {
            "made_by": {
                **facts,
                "base": start.base.name,
                "settings": settings.to_json(),
                "seed": carried.seed,
                "kept": kept,
                "rounds": records,
            },
            "scores": {n: cell_facts(d, board.cells["loop"][n], "test") for n, d in board.definitions.items()},
        }
        model.write(folder)
    return board
