"""One build several times, by seeds or folds, with one scoreboard of the means and one model.

Each time is a whole build in a run folder of its own below the run folder. The mechanism asks only for what differs
between them: a `Repeat`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from allround.building.result import Build
from allround.building.stages.report import (
    BEST,
    PREDICTIONS,
    REPORT,
    REPORT_FACTS,
    check_outputs,
    keep_config,
    write_report_files,
)
from allround.building.words import commands, python_lines
from allround.building.workshop import run_folder
from allround.core.files import MANIFEST, read_settings
from allround.core.outputs import output_folder
from allround.core.progress import FINISHED, Progress
from allround.core.words import percent, plural
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Notes, Scoreboard
from allround.evaluation.scoreboard.pool import RepeatedRun, common_systems, pool
from allround.models.long_texts import LONG_TEXTS
from allround.tasks.checks.finding import Finding
from allround.tasks.folds import fold_suites
from allround.tasks.suite import Suite


@dataclass(frozen=True)
class Repeat:
    """One of several builds. name: in words, such as "seed 1". folder: its run folder, below that of all."""

    name: str
    folder: str
    suite: Suite
    seed: int


def seed_repeats(suite: Suite, first: int, count: int) -> list[Repeat]:
    """The same suite with several seeds, from `first` on."""
    return [Repeat(f"seed {seed}", f"seeds/{seed}", suite, seed) for seed in range(first, first + count)]


def fold_repeats(suite: Suite, count: int, seed: int) -> list[Repeat]:
    """The rows of a suite in folds, each of which is the test rows of one build."""
    suites = fold_suites(suite, count)
    return [Repeat(f"fold {number}", f"folds/{number}", one, seed) for number, one in enumerate(suites, 1)]


def build_repeats(
    repeats: Sequence[Repeat],
    of: str,
    build_one: Callable[[Repeat, Path, Progress], Build],
    *,
    out: Path,
    inputs: Sequence[object],
    progress: Progress,
    final: Repeat | None = None,
    check: Callable[[], Mapping[str, Sequence[Finding]]] | None = None,
    config: str | None = None,
    force: bool = False,
) -> Build:
    """Build each repeat below `out`, pool their scoreboards, and keep the best model.

    of: what the repeats differ by: seed or fold. inputs: what the build reads beside the suite. final: one more build,
    whose model is kept and whose scores are not pooled; without it, the best model of the repeats is kept. check:
    checks the data before all builds, where the findings over all are not those of each. config: what the command line
    was asked for. Killed and called again, it goes on with what is finished.
    """
    suite = final.suite if final is not None else repeats[0].suite
    every = [*repeats, *([final] if final is not None else [])]
    with run_folder(out, "build", force=force):
        check_outputs(out, suite, inputs, force=force)
        keep_config(out, config, "build", force=force)
        found = check() if check is not None else {}
        made: dict[str, Build] = {}
        for number, repeat in enumerate(every, 1):
            progress.say(f"{repeat.name} ({number} of {len(every)})", style="bold")
            made[repeat.name] = build_one(repeat, out / repeat.folder, progress)
        pooled = {repeat.name: made[repeat.name] for repeat in repeats}
        runs = {name: RepeatedRun(one.scoreboard, _predictions(one)) for name, one in pooled.items()}
        boards = {name: one.scoreboard for name, one in pooled.items()}
        if final is None:
            best, model, words = choose(boards, common_systems(runs), of)
        else:
            best, words = choose_final(made[final.name].scoreboard, boards, common_systems(runs), of)
            model = final.name
        first = made[repeats[0].name if final is None else final.name].scoreboard
        notes: Notes = {**first.notes, "choice": words}
        notes.pop("prompts", None)  # scores of one run
        if rising := [f"{name}: {one}" for name, board in boards.items() for one in board.notes.get("training", ())]:
            notes["training"] = rising
        about = {**first.provenance, f"{of}s": [repeat.name for repeat in repeats]}
        board = pool(runs, of=of, best=best, notes=notes, provenance=about)
        with output_folder(out / BEST, "build", force=force) as new:
            shutil.copytree(made[model].best, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        facts = [read_settings(one.folder / REPORT_FACTS) for one in made.values()]
        facts = facts if final is None else [facts[-1], *facts[:-1]]  # its splits are the suite's own
        use = {"commands": commands(out, suite.tasks), "python": python_lines(out, suite.tasks)}
        write_report_files(out, board, {**_facts(facts, of, len(repeats), found), **use}, force=force)
        progress.say(words)
        progress.note(FINISHED)
    return Build(out, out / BEST, out / REPORT, board)


def choose(boards: Mapping[str, Scoreboard], common: Sequence[str], of: str) -> tuple[str, str, str]:
    """The best system over all runs, the run whose model is kept, and the choice in words, all by validation rows.

    Of the systems that were chosen in at least one run, the best has the highest mean over the runs of its mean
    retention; its model is that of the run where it scored highest among those that chose it. Systems that some run
    does not have are chosen only where no other was.
    """
    chosen = {name: str(board.best) for name, board in boards.items()}
    candidates = [name for name in dict.fromkeys(chosen.values()) if name in common] or list(common)

    def mean(system: str) -> float:
        return sum(_validation(board, system) for board in boards.values()) / len(boards)

    best = max(candidates, key=mean)
    kept = [name for name in boards if chosen[name] == best] or list(boards)
    model = max(kept, key=lambda name: _validation(boards[name], best))
    words = (
        f"Chosen on validation, as a mean over {plural(len(boards), of)}: {best}, mean retention "
        f"{percent(mean(best))}%, of the systems that were best with one {of} at least. The model that is kept is that "
        f"of {model}."
    )
    return best, model, words


def choose_final(
    final: Scoreboard, boards: Mapping[str, Scoreboard], common: Sequence[str], of: str
) -> tuple[str, str]:
    """The system that is shown as the best with its scores over all runs, and the choice in words.

    final: the board of the build whose model is kept. The system is the one that it chose, where every run has it, else
    that of `choose`.
    """
    kept = str(final.best)
    words = (
        f"Every row was tested once, by models that did not see it, in {plural(len(boards), of)}. The model that is "
        f"kept is {kept}, chosen on validation by one more build with the suite's own splits"
    )
    if kept in common:
        return kept, f"{words}; the scores are those of {kept} over all {of}s."
    best, _, _ = choose(boards, common, of)
    return (
        best,
        f"{words}. Not every {of} has it, so its own scores are only those of that build; {best} is shown here.",
    )


def _validation(board: Scoreboard, system: str) -> float:
    return board.validation_mean(system) or 0.0


def _predictions(made: Build) -> dict[tuple[str, str], Predictions]:
    """The predictions of every system on every task that a build wrote."""
    board, folder = made.scoreboard, made.folder / PREDICTIONS
    return {
        (system.name, task): Predictions.load(folder / system.name / f"{task}.parquet")
        for system in board.systems
        for task in board.definitions
    }


def _facts(
    runs: Sequence[Mapping[str, object]], of: str, count: int, found: Mapping[str, Sequence[Finding]]
) -> dict[str, object]:
    """What the report says of all runs: the first one's facts, with the time of all; what was tried differs by run.

    count: how many seeds or folds they are. found: findings of the data check by task that hold for all runs together.
    """
    facts = {name: value for name, value in runs[0].items() if name not in ("choices", "errors", "prompt_scores")}
    for task in facts["tasks"] if found and isinstance(facts["tasks"], list) else ():
        lengths = [one for one in task["findings"] if one["code"] == LONG_TEXTS]
        task["findings"] = [*map(asdict, found[task["name"]]), *lengths]
    times = [one.get("seconds_total") for one in runs]
    facts["seconds_total"] = sum(time for time in times if isinstance(time, (int, float)))
    facts["title"] = f"{facts.get('title', 'Scoreboard')}, {plural(count, of)}"
    return facts
