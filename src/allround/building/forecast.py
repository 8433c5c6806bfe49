"""What a build would make, how long it would take and how much disk it would fill, before anything is written.

The time follows from a measurement on a few rows of each task, in a temporary folder, as a budget's does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.building.budget import adapting_time, estimate
from allround.building.given import GivenSpecialists
from allround.building.options import Options
from allround.building.search import most_trials
from allround.building.stages.adapt import put_off, to_adapt
from allround.building.stages.base import is_module, make_base
from allround.building.stages.data import keep_rows
from allround.building.stages.heads import fit_heads, fit_probes, refit_seconds
from allround.building.stages.plan import extra_costs, measure_speed, whole_scope
from allround.building.stages.unseen import answer_unseen
from allround.building.workshop import MOST_WORKERS, Workshop, seconds
from allround.core import registry
from allround.core.jobs import available_cores
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.models.base import builtin_encoders, load_encoder, sizes_of
from allround.tasks.suite import Suite
from allround.tasks.task import SPLITS
from allround.training.settings import Settings

if TYPE_CHECKING:
    from torch import nn

#: Rows of each split of a task on which the time is measured.
MEASURED_ROWS = 64
#: Bytes of an answer with its target and what goes with it, about, in a file of predictions.
_ANSWER = 40


@dataclass(frozen=True)
class Forecast:
    """What a build would make.

    rows: of each split, over all tasks. trainings: specialists and joint models, once a seed. merges: the most settings
    that are tried, by method. seconds: of the whole build, with all its seeds or folds. disk: bytes that the run folder
    takes, of which `pieces` may go when the run is finished. measured: rows of a task that the time was measured on, at
    most.
    """

    suite: str
    base: str
    rows: dict[str, int]
    trainings: list[str]
    merges: dict[str, int]
    seeds: int
    folds: int
    workers: int
    seconds: float
    disk: int
    pieces: int
    measured: int
    budget: float | None


def forecast(
    suite: Suite,
    base: str | Path | nn.Module,
    options: Options,
    encoder: Mapping[str, object],
    given: GivenSpecialists,
) -> Forecast:
    """Say what a build with these options and given specialists would make. Nothing is written but to a
    temporary folder, which goes."""
    every, suite = suite, suite.to_train
    with tempfile.TemporaryDirectory(prefix="allround-") as place:
        shop = Workshop(Path(place), Progress(quiet=True), seed=options.seed, workers=1, in_process=True)
        with shop:
            seed = seed_of(options.seed, "forecast")
            few = {name: task.limit(dict.fromkeys(SPLITS, MEASURED_ROWS), seed) for name, task in every.tasks.items()}
            kept = keep_rows(shop, few)
            data = kept.trained
            made = make_base(shop, base, data, encoder, options.seed)
            unseen = kept.unseen if options.adapt is None else put_off(kept.unseen, made, options.head)[0]
            answer_unseen(shop, unseen, made, options.head)
            start = fit_heads(shop, data, made, options.settings.device, options.head)
            probes = fit_probes(shop, start, options.settings.device)
            probing = seconds({} if probes is None else probes.fitted(start))
            speed = measure_speed(shop, made, data, options.settings, start.heads)
        scope = whole_scope(options, data, options.settings)
        rows = {split: sum(len(task.splits[split]) for task in every) for split in SPLITS}
        grown = sum(len(task.splits[split]) for task in suite for split in SPLITS) / sum(
            data.rows(split) for split in SPLITS
        )
        heads = start.seconds * grown
        # A base that is pretrained on the spot sees the training rows.
        sizes = len(sizes_of(str(base))) if options.sizes else 1
        pretrained = str(base) in builtin_encoders()
        first = sizes * (heads + probing * grown + float(made.piece.facts["seconds"]) * (grown if pretrained else 1))
        model, stored = _size(made.piece.folder), round(sum(_size(Path(f)) for f in data.folders.values()) * grown)
        name, passes = made.name, made.passes(options.settings)
        tuned = _adapter_size(made.encoder, options.settings) or model
        refitting = refit_seconds(start.heads) * grown
    several = len(suite.tasks) > 1
    merges = {
        method: most_trials(registry.find(family, method), options.trials)
        for family, methods in (("merge", scope.merges), ("learn", scope.learned))
        for method in (methods if several else ())
    }
    workers = 1 if is_module(base) else options.workers or min(available_cores(), MOST_WORKERS)
    fixed = len(scope.merges) if several else 0
    total = first / workers + estimate(suite.tasks, speed, share=1.0, trials=options.trials, methods=fixed,
                                       passes=passes, joint=options.joint, workers=workers)  # fmt: skip
    if several:
        costs = extra_costs(suite.tasks, speed, scope, passes=passes, heads=refitting, workers=workers)
        total += sum(costs.values())
    adapted = {} if options.adapt is None else to_adapt(every.tasks)
    if options.adapt is not None:
        total += adapting_time(adapted, speed, rows=options.adapt, passes=passes, workers=workers)
    trainings = [f"specialist of {task}" for task in suite.tasks if task not in given.tasks]
    trainings += [*(["joint"] if options.joint else []), *(joint.system for joint in scope.joints)]
    trainings += [f"joint models of {count} groups" for count in scope.groups]
    trainings += [f"base, joint model and the best single model adapted to {name}" for name in adapted]
    answers = _ANSWER * (rows["validation"] + rows["test"]) * (3 + len(trainings) + 2 * len(merges))
    models = sizes + len(given.tasks) + len(merges)  # those that are stored whole
    pieces = model * models + tuned * (len(trainings) - len(adapted)) + stored + answers
    # Beside the pieces lie the best model and the predictions; several seeds have a best model of all.
    disk = options.times * (pieces + model + answers) + (model if options.times > 1 else 0)
    if options.budget is not None:
        total = min(total, 60 * options.budget / options.times)
    return Forecast(
        suite=suite.name,
        base=name,
        rows=rows,
        trainings=trainings,
        merges=merges,
        seeds=options.seeds,
        folds=options.folds,
        workers=workers,
        seconds=options.times * total,
        disk=disk,
        pieces=options.times * pieces,
        measured=MEASURED_ROWS,
        budget=options.budget,
    )


def _adapter_size(folder: str, settings: Settings) -> int | None:
    """Bytes of what tuning stores of a base's encoder: low-rank changes alone; None where it stores all of it."""
    encoder = load_encoder(folder)
    if settings.tune != "lora" or not encoder.keeps_adapters:
        return None
    modules = dict(encoder.backbone.named_modules())
    shapes = [tuple(modules[name].weight.shape) for name in encoder.adapted_layers()]
    rank = settings.lora_rank or encoder.lora_rank
    return 4 * rank * sum(int(rows) + int(columns) for rows, columns in shapes)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
