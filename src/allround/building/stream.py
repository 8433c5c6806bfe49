"""Strategies compared on a stream: each learns arrival after arrival, over orders and seeds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allround.building.jobs.streams import measure_overlap, run_course
from allround.building.saving import CONFIG
from allround.building.single import floor
from allround.building.stages.base import Base, decide_precision, is_module, make_base
from allround.building.stages.data import Data, DataCheck, announce, keep_rows
from allround.building.stages.report import keep_config, provenance
from allround.building.workshop import Work, Workshop, run_folder
from allround.continual.report import REFERENCES, markdown
from allround.continual.results import ArrivalOverlap, Course, StreamResults
from allround.continual.strategy import strategy_of
from allround.continual.stream import PIECES, Scenario, Stream, of_tasks, permuted, rotated, split_labels
from allround.core.errors import AllroundError
from allround.core.files import json_text
from allround.core.growing import remove_empty
from allround.core.jobs import call, quiet_libraries
from allround.core.outputs import check_texts, write_texts
from allround.core.pieces import Piece
from allround.core.progress import FINISHED, Progress
from allround.core.registry import spelled
from allround.core.seeds import seed_of
from allround.core.words import listed, plural
from allround.evaluation.predictions import score
from allround.models.device import pick_device
from allround.tasks.metric import better
from allround.tasks.suite import Suite, as_suite
from allround.training.settings import Settings

#: What is written of a stream.
FILES = ("stream.json", "stream.md", "stream.html", "curves.svg")


def make_streams(
    suite: Suite,
    task: str | None,
    *,
    scenario: Scenario | None = None,
    labels: int | None = None,
    permute: int | None = None,
    rotate: int | None = None,
    orders: int = 1,
) -> list[Stream]:
    """The same stream in several orders, the first as it stands in the data.

    task: the one that arrives in parts: by labels, so many at a time, or with its images shuffled or turned so many
    times. None: each task of the suite is an arrival. Errors: parts that were asked for without a task, or in two ways.
    """
    asked = f"make a stream of '{suite.name}'"
    parts = {"labels": labels, "permuted": permute, "rotated": rotate}
    given = [name for name, value in parts.items() if value is not None]
    if orders < 1:
        raise AllroundError(asked, f"--orders is {orders}", "give 1 or more")
    if task is None and not given:
        if scenario not in (None, "task"):
            raise AllroundError(asked, f"the scenario '{scenario}' is for one task that comes in parts",
                                "give --task and --labels, or leave --scenario out")  # fmt: skip
        whole = of_tasks(suite.name, list(suite.to_train))
        return [whole.ordered(order) for order in range(orders)]
    if task is None and len(suite.tasks) == 1:
        task = next(iter(suite.tasks))
    if task is None or len(given) != 1:
        found = f"{listed([f'--{name}' for name in given])} were given" if given else "nothing says how it is cut"
        raise AllroundError(asked, found if task else "no task was named that comes in parts",
                            "give --task, and one of --labels, --permuted and --rotated")  # fmt: skip
    one = suite[task]
    if labels is not None:
        chosen = scenario or "class"
        drawn = [split_labels(one, labels, chosen, order=order) for order in range(orders)]
        return drawn if labels > 1 else [drawn[0].ordered(order) for order in range(orders)]
    chosen = scenario or "domain"
    if chosen not in ("domain", "free"):
        raise AllroundError(asked, f"changed images come in the scenario 'domain' or 'free', and '{scenario}' was "
                            "asked for", "leave --scenario out")  # fmt: skip
    made = permuted(one, permute, scenario=chosen) if permute else rotated(one, rotate or 0, scenario=chosen)
    return [made.ordered(order) for order in range(orders)]


def stream(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    strategies: Sequence[str] = (),
    task: str | None = None,
    scenario: Scenario | None = None,
    labels: int | None = None,
    permute: int | None = None,
    rotate: int | None = None,
    seeds: int = 1,
    orders: int = 1,
    base: str | Path | None = None,
    settings: Settings | None = None,
    encoder: Mapping[str, object] | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    config: str | None = None,
    force: bool = False,
) -> StreamResults:
    """Compare strategies that learn what comes one after another, without seeing past rows but those they remember.

    The tasks of the suite come one by one, or one task comes in parts: see `make_streams`. strategies: methods of the
    family `strategy`, also with settings such as `er:bytes=20000`; `none`, `ridge` and `joint` always stand beside
    them. Each is run with every seed on every order. Test rows of all arrivals so far are answered after each arrival,
    and nothing is chosen by them.

    Everything is kept in `out`: run again after a kill, it goes on after the last arrival that was learned.

    Errors: fewer than two arrivals; an unknown strategy; no base.
    """
    quiet_libraries()
    out = Path(out)
    suite = as_suite(suite, data_dir=data_dir, only=only, limit=limit).to_train
    asked = f"run strategies on a stream of '{suite.name}'"
    base = suite.own_base(asked) if base is None else base
    if seeds < 1:
        raise AllroundError(asked, f"--seeds is {seeds}", "give 1 or more")
    names = list(dict.fromkeys([*strategies, *REFERENCES]))
    plans = {name: spelled("strategy", name) for name in names}
    parts = {name: strategy_of(name, values) for name, values in plans.values()}
    streams = make_streams(suite, task, scenario=scenario, labels=labels, permute=permute, rotate=rotate, orders=orders)
    for name, strategy in parts.items():
        if streams[0].scenario not in strategy.scenarios:
            raise AllroundError(asked, f"the strategy '{name}' is for the scenario {listed(list(strategy.scenarios))}, "
                                f"and this stream is of the scenario {streams[0].scenario}",
                                f"give --scenario {strategy.scenarios[0]}, or leave the strategy out")  # fmt: skip
    settings = settings or Settings()
    pick_device(settings.device)
    with run_folder(out, "stream", force=force):
        check_texts(out, [*FILES, CONFIG], "stream", force=force)
        keep_config(out, config, "stream", force=force)
        shop = Workshop(out, progress or Progress(out / "log.txt"), workers=workers, in_process=is_module(base),
                        force=force)  # fmt: skip
        with shop:
            first = streams[0]
            announce(shop, suite, f"{plural(len(first.arrivals), 'arrival')} in {plural(orders, 'order')}, "
                     f"{len(names)} strategies, {plural(seeds, 'seed')}")  # fmt: skip
            DataCheck().tasks(shop.progress, suite.tasks)
            data = keep_rows(shop, {name: suite[name] for name in ([task] if task else suite.tasks)})
            made = make_base(shop, base, data, encoder or {}, 0)
            chosen = decide_precision(shop, settings).settings
            courses = _run(shop, made, streams, plans, chosen, seeds)
            found = _results(shop, suite, data, made, first, courses, chosen, (seeds, orders))
            alike, kernel = _overlaps(shop, made, first)
            found = replace(found, overlap=alike, kernel=kernel)
        from allround.continual.page import html
        from allround.continual.pictures import curves_svg

        texts = (json_text(_plain(found), allow_nan=False), markdown(found), html(found), curves_svg(found))
        write_texts(out, dict(zip(FILES, texts, strict=True)), "stream", force=force)
        shop.progress.note(FINISHED)
    return found


def _run(
    shop: Workshop,
    base: Base,
    streams: Sequence[Stream],
    plans: Mapping[str, tuple[str, Mapping[str, object]]],
    settings: Settings,
    seeds: int,
) -> list[tuple[str, int, int, Stream, Piece]]:
    """The courses of all strategies over all orders and seeds, made where they are not there yet."""
    work: list[Work] = []
    found = []
    for order, one in enumerate(streams):
        kept = [keep_rows(shop, {task.name: task for task in arrival.tasks}) for arrival in one.arrivals]
        for seed in range(seeds):
            for text, (name, values) in plans.items():
                piece = shop.pieces.piece(
                    f"course-{name}-{order}-{seed}", base=base.piece.key, strategy=name, values=dict(values), seed=seed,
                    scenario=one.scenario, settings=settings.to_json(),
                    arrivals=[[arrival.name, [task.content for task in arrival.tasks]] for arrival in one.arrivals],
                )  # fmt: skip
                job = call(run_course, piece=piece, encoder=base.encoder, strategy=name, values=dict(values),
                           arrivals=[(arrival.name, list(data.folders.values()))
                                     for arrival, data in zip(one.arrivals, kept, strict=True)],
                           settings=settings.to_json(), seed=seed_of(seed, "stream"),
                           fit=one.scenario == "task", pieces=PIECES if one.scenario == "free" else 1)  # fmt: skip
                found.append((text, order, seed, one, piece))
                work.append((piece, job))
    shop.say(f"{plural(len(work), 'course')} run", shop.do("courses", work))
    for *_, piece in found:  # a course may have been killed when all but this was done
        shutil.rmtree(piece.scratch, ignore_errors=True)
    remove_empty(shop.pieces.folder / "unfinished")
    return found


def _overlaps(shop: Workshop, base: Base, first: Stream) -> tuple[ArrivalOverlap, ArrivalOverlap | None]:
    """How alike the arrivals are to the base, by its features and by the gradients of its weights."""
    kept = [keep_rows(shop, {task.name: task for task in arrival.tasks}) for arrival in first.arrivals]
    content = [[task.content for task in arrival.tasks] for arrival in first.arrivals]
    piece = shop.pieces.piece("overlap", base=base.piece.key, arrivals=content, by=["features", "gradients"])
    job = call(measure_overlap, piece=piece, encoder=base.encoder,
               arrivals=[(arrival.name, list(data.folders.values()))
                         for arrival, data in zip(first.arrivals, kept, strict=True)])  # fmt: skip
    shop.do("overlap of the arrivals", [(piece, job)])
    names, kernel = tuple(arrival.name for arrival in first.arrivals), piece.facts["kernel"]
    return (ArrivalOverlap(names, np.array(piece.facts["overlap"])),
            None if kernel is None else ArrivalOverlap(names, np.array(kernel)))  # fmt: skip


def _results(
    shop: Workshop,
    suite: Suite,
    data: Data,
    base: Base,
    first: Stream,
    courses: Sequence[tuple[str, int, int, Stream, Piece]],
    settings: Settings,
    counts: tuple[int, int],
) -> StreamResults:
    made = []
    for text, order, seed, one, piece in courses:
        facts = piece.facts
        size = len(one.arrivals)
        signs = [[1 if better(task.definition.metric) == "higher" else -1 for task in a.tasks] for a in one.arrivals]
        matrices = {what: np.full((size, size), np.nan) for what in ("scores", "oracle", "picked")}
        for what, matrix in matrices.items():
            for after, row in enumerate(facts[what]):
                for of, values in enumerate(row):
                    factors = signs[of] if what != "picked" else [1] * len(values)
                    if values:
                        matrix[after, of] = float(np.mean([s * v for s, v in zip(factors, values, strict=True)]))
        ahead = np.full(size, np.nan)
        for after, values in enumerate(facts["ahead"][:-1]):
            if values:
                floors = [score(floor(task)) for task in one.arrivals[after + 1].tasks]
                ahead[after + 1] = np.mean([s * (v - f) for s, v, f in zip(signs[after + 1], values, floors,
                                                                         strict=True)])  # fmt: skip
        names = tuple(arrival.name for arrival in one.arrivals)
        taken = {what: facts[what] for what in ("bytes", "rows", "seconds", "steps", "stored")}
        made.append(Course(text, order, seed, names, matrices["scores"], **taken,
                           picked=matrices["picked"], oracle=matrices["oracle"], ahead=ahead))  # fmt: skip
    metrics = sorted({task.definition.metric for arrival in first.arrivals for task in arrival.tasks})
    rows = {
        split: sum(len(task.splits[split]) for a in first.arrivals for task in a.tasks) for split in ("train", "test")
    }
    about = {
        "stream": f"{first.name}, {plural(len(first.arrivals), 'arrival')}, scenario {first.scenario}",
        "arrivals": "; ".join(arrival.name for arrival in first.arrivals),
        "base": base.name,
        "rows": f"{rows['train']:,} training rows, {rows['test']:,} test rows",
        "courses": f"{plural(counts[0], 'seed')} x {plural(counts[1], 'order')}",
    }
    notes = [f"{name}: {note}" for name, task in data.tasks.items() for note in task.notes]
    title, made_by = f"Strategies on the stream {first.name}", provenance(shop, suite, base, data, settings)
    return StreamResults(title, first.scenario, tuple(made), listed(metrics), about, notes, made_by)


def _plain(found: StreamResults) -> dict[str, object]:
    """Plain data: every course with its matrix, and the means of the measures."""

    def number(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    def rows(matrix: NDArray[np.float64]) -> list[list[float | None]]:
        return [[number(value) for value in row] for row in matrix]

    return {
        "format": "allround stream 1",
        "title": found.title,
        "scenario": found.scenario,
        "metric": found.metric,
        "strategies": {
            name: {
                measure: {"mean": one.value, "low": one.low, "high": one.high}
                for measure, one in [
                    *((measure, found.mean(name, measure)) for measure in found.of(name)[0].measures),
                    ("behind", found.behind(name)),
                ]
            }
            for name in found.strategies
        },
        "courses": [
            {
                "strategy": one.strategy,
                "order": one.order,
                "seed": one.seed,
                "arrivals": list(one.arrivals),
                "scores": rows(one.scores),
                "bytes": list(one.bytes),
                "rows": list(one.rows),
                "seconds": list(one.seconds),
                "steps": list(one.steps),
                "stored": one.stored,
                **({"ahead": [number(value) for value in one.ahead]} if np.isfinite(one.ahead).any() else {}),
                **({"picked": rows(one.picked), "oracle": rows(one.oracle)} if one.picks else {}),
            }
            for one in found.courses
        ],
        **(
            {"overlap": {"arrivals": list(found.overlap.names), "values": rows(found.overlap.values)}}
            if found.overlap is not None
            else {}
        ),
        **({"kernel": rows(found.kernel.values)} if found.kernel is not None else {}),
        "facts": dict(found.facts),
        "notes": list(found.notes),
        "provenance": dict(found.provenance),
    }
