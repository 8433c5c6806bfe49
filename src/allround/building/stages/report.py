"""What a build leaves: the chosen model, the scoreboard, the predictions and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from allround.building.machine import about_machine, peak_memory
from allround.building.saving import CONFIG, save_best
from allround.building.search import Trial
from allround.building.stages.base import Base, Precision
from allround.building.stages.choice import Choice
from allround.building.stages.data import Data, DataCheck
from allround.building.stages.plan import Scope
from allround.building.stages.scoring import Scored
from allround.building.words import commands, python_lines, task_facts
from allround.building.workshop import Workshop
from allround.core.files import json_text
from allround.core.outputs import check_out, check_out_file, check_texts, output_file, remove_stale, write_texts
from allround.core.plugins import in_use
from allround.core.progress import FINISHED
from allround.core.reading import parse_json
from allround.core.schema import checked
from allround.core.version import __version__
from allround.evaluation.error_files import check_error_files, write_error_files
from allround.evaluation.errors import errors_of
from allround.evaluation.facts import PromptFacts, ReportFacts
from allround.evaluation.predictions import Predictions
from allround.evaluation.prompt_scores import PromptScores
from allround.evaluation.report import html
from allround.evaluation.routing import RoutingFacts
from allround.evaluation.scoreboard import FILES, Scoreboard
from allround.evaluation.sharing import SharingFacts
from allround.tasks.suite import Suite
from allround.training.settings import Settings

#: The page that a build writes, what it says beside the scoreboard, the folder of its predictions, and that of the
#: chosen model.
REPORT, REPORT_FACTS, PREDICTIONS, BEST = "report.html", "report.json", "predictions", "best"


def check_outputs(out: Path, suite: Suite, read: Sequence[object], *, force: bool) -> None:
    """An error where an output would replace what a build may not replace. read: folders that the build reads."""
    check_out(out / BEST, "build", force=force, inputs=read, data=suite.files)
    check_texts(out, [*FILES, REPORT, REPORT_FACTS, CONFIG], "build", force=force)
    for path in (out / PREDICTIONS).rglob("*.parquet"):
        check_out_file(path, "build", force=force, root=out)
    check_error_files(out, "build", force=force)


def keep_config(out: Path, config: str | None, command: str, *, force: bool) -> None:
    """Keep in a run folder what the command line was asked for. None: it was called from Python."""
    if config is not None:
        write_texts(out, {CONFIG: config}, command, force=force)


def provenance(shop: Workshop, suite: Suite, base: Base, data: Data, settings: Settings) -> dict[str, object]:
    """Where the figures of a run come from."""
    return {
        "allround": __version__,
        "suite": suite.name,
        "base": base.name,
        "base_piece": base.piece.key,
        "tasks": data.content,
        "settings": settings.to_json(),
        "seed": shop.seed,
        "workers": shop.workers,
        **({"plugins": used} if (used := in_use()) else {}),
    }


def write_predictions(out: Path, predictions: Mapping[tuple[str, str], Predictions], *, force: bool) -> None:
    """Write a Parquet file for each system and task; those of an earlier build that are not made any more go."""
    written = []
    for (system, task), found in predictions.items():
        name = f"{PREDICTIONS}/{system}/{task}.parquet"
        with output_file(out / name, "build", force=force, root=out) as new:
            found.write(new)
        written.append(name)
    remove_stale(out, "build", PREDICTIONS, written)


def write_report(
    shop: Workshop, title: str, scope: Scope, precision: Precision, trials: Sequence[Trial], choice: Choice,
    scored: Scored, check: DataCheck, *, size: str | None = None, prompts: Sequence[PromptFacts] = (),
    prompt_scores: Sequence[PromptScores] = (), sharing: Sequence[SharingFacts] = (),
    routing: Sequence[RoutingFacts] = (),
) -> None:  # fmt: skip
    """Write the chosen model, the scoreboard and the report, and what the report can be made from again.

    trials: settings of merges that were compared. check: of the data of all tasks. size: how that of the base was
    chosen, in words. prompts: as a language model read them. prompt_scores: of tasks that have several. sharing: of
    joint models that share by a plan. routing: of routed systems.
    """
    out, board, tasks = shop.out, scored.board, scope.every.tasks
    save_best(out / BEST, choice.best, board, scored.calibrations, force=shop.force)
    best = {name: scored.predictions[choice.best.name, name] for name in tasks}
    errors = {n: errors_of(tasks[n], made, seed=shop.seed, resamples=board.resamples) for n, made in best.items()}
    write_error_files(out, errors, "build", force=shop.force)
    extra: ReportFacts = {
        "title": title,
        "commands": commands(out, tasks),
        "python": python_lines(out, tasks),
        "choices": [
            {"method": t.method, "settings": t.settings, "validation": t.validation, "chosen": t.chosen} for t in trials
        ],
        "tasks": [task_facts(t, check.found.get(name, ())) for name, t in tasks.items()],
        "budget": scope.budget,
        "precision": precision.words,
        **({"size": size} if size else {}),
        **about_machine(),
        "seconds_total": shop.elapsed,
        "peak_memory": peak_memory(),
        "errors": errors,
    }
    plain: dict[str, object] = {"errors": {name: asdict(one) for name, one in errors.items()}}
    plain |= {"prompts": [asdict(one) for one in prompts]} if prompts else {}
    plain |= {"prompt_scores": [asdict(one) for one in prompt_scores]} if prompt_scores else {}
    plain |= {"sharing": [asdict(one) for one in sharing]} if sharing else {}
    plain |= {"routing": [asdict(one) for one in routing]} if routing else {}
    write_report_files(out, board, dict(extra) | plain, force=shop.force)
    shop.progress.note(FINISHED)


def write_report_files(out: Path, board: Scoreboard, facts: Mapping[str, object], *, force: bool) -> None:
    """Write the scoreboard, the report, and what it says beside the scoreboard."""
    texts = {**board.files(), REPORT_FACTS: json_text(facts)}
    write_texts(out, {**texts, REPORT: page_of(board, parse_json(texts[REPORT_FACTS]))}, "build", force=force)


def page_of(board: Scoreboard, facts: object) -> str:
    """The report of a build. facts: what it says beside the scoreboard, as `report.json` has it."""
    do = "run the build again: finished work is kept"
    return html(board, extra=checked(ReportFacts, facts, f"read {REPORT_FACTS}", do))
