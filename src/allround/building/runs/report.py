"""The report of a run and tables of its scores, made from what its folder holds.

The pieces of the run are not needed.
"""

from __future__ import annotations

from pathlib import Path

from allround.building.runs.folder import read_run
from allround.building.stages.report import REPORT, REPORT_FACTS, page_of
from allround.core.errors import AllroundError, suggestion
from allround.core.files import read_settings
from allround.core.outputs import work_folder, write_texts
from allround.evaluation.scoreboard import Scoreboard
from allround.evaluation.training import TrainingComparison


def report(folder: Path | str, *, force: bool = False) -> list[Path]:
    """Write the report of a build or a comparison of trainings again, from its numbers. Returns the files.

    Where nothing was changed they have the same bytes as before. A file that somebody changed since is replaced only
    with `force`. Errors: a folder of another sort, a process at work in it, numbers that are damaged or missing.
    """
    folder = Path(folder)
    command = read_run(folder).command
    if command not in ("build", "compare-training"):
        raise AllroundError(
            f"make the report of {folder} again", f"'{command}' wrote it, which makes no report", "give a run of build"
        )
    with work_folder(folder, command):
        texts = _build_texts(folder) if command == "build" else TrainingComparison.load(folder).files()
        write_texts(folder, texts, command, force=force)
    return [folder / name for name in texts]


#: The sorts of tables of scores.
TABLES = ("csv", "latex", "markdown")


def table(folder: Path | str, sort: str, *, intervals: bool = True) -> str:
    """The scores in a folder as a table. sort: csv, latex or markdown. intervals: in the latter two."""
    if sort not in TABLES:
        raise AllroundError(f"make a table of the sort '{sort}'", "there is no such sort", suggestion(sort, TABLES))
    compared = (Path(folder) / "comparison.json").is_file()
    board = TrainingComparison.load(folder) if compared else Scoreboard.load(folder)
    if sort == "csv":
        return board.to_csv()
    return board.to_latex(intervals=intervals) if sort == "latex" else board.to_markdown(intervals=intervals)


def _build_texts(folder: Path) -> dict[str, str]:
    board = Scoreboard.load(folder)
    if not (folder / REPORT_FACTS).is_file():
        raise AllroundError(
            f"make the report of {folder} again",
            f"there is no {REPORT_FACTS} in it, which earlier versions did not write",
            "run the build again: finished work is kept",
        )
    return {**board.files(), REPORT: page_of(board, read_settings(folder / REPORT_FACTS))}
