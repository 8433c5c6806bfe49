"""Run folders afterwards: listed, shown, cleaned, compared, and their report made again."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from allround.building import Options, build
from allround.building.runs.cleaning import clean
from allround.building.runs.compare import compare_runs
from allround.building.runs.folder import find_runs, piece_sorts, read_run
from allround.building.runs.report import report, table
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.locks import LOCK
from allround.core.outputs import output_folder, work_folder
from allround.core.progress import Progress
from allround.evaluation.scoreboard import Scoreboard
from allround.models.encoders.small_table import SmallTable
from allround.tasks.suite import Suite
from allround.training.settings import Settings


def cli(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def made(table_suite: Suite, small_table: SmallTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a build."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "base").mkdir()
    small_table.save(folder / "base")
    settings = Settings(epochs=1, precision="fp32")
    options = Options(settings, workers=1, joint=False, trees=False, methods=("average",), resamples=100)
    out = folder / "all" / "one"
    build(table_suite, out=out, base=folder / "base", options=options, progress=Progress(out / "log.txt", quiet=True))
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "all" / "copy"))


def test_runs_are_found_with_what_they_are(made: Path, copy: Path) -> None:
    with work_folder(copy.parent / "begun", "build"):
        (copy.parent / "begun" / "log.txt").write_text("  0.0 s  suite\n")
    (copy.parent / "begun" / "pieces").mkdir()
    (copy.parent / "mine").mkdir()
    found = {run.folder.name: run for run in find_runs(copy.parent)}
    assert set(found) == {"copy", "begun"}, "what lies in a run is part of it, and other folders are none"
    run, begun = found["copy"], found["begun"]
    board = Scoreboard.load(made)
    assert (run.command, run.state, run.suite, run.base) == ("build", "finished", "flowers", "base")
    assert (run.best, run.retention) == (board.best, board.mean[str(board.best)].value)
    assert run.size == sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
    assert run.pieces == sum(path.stat().st_size for path in copy.glob("pieces/**/*") if path.is_file())
    assert (begun.command, begun.state, begun.best) == ("build", "unfinished", None)
    assert sum(one.size for one in piece_sorts(copy)) == run.pieces
    assert {one.name: one.count for one in piece_sorts(copy)}["specialist"] == 2
    listed = cli("runs", "list", copy.parent)
    assert f"{copy}  " in listed and "finished" in listed and "unfinished" in listed
    shown = cli("runs", "show", copy)
    assert "specialist           2" in shown and f"allround predict {copy}/best --task species" in shown


def test_a_run_that_was_begun_again_is_not_finished(copy: Path) -> None:
    with open(copy / "log.txt", "a") as file:
        file.write("  0.0 s  suite digits\n")
    assert read_run(copy).state == "unfinished"
    with pytest.raises(AllroundError, match="what it has finished would be lost"):
        clean(copy)


def test_a_run_at_work_is_left_alone(copy: Path) -> None:
    with open(copy / LOCK) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert read_run(copy).state == "running"
        with pytest.raises(AllroundError, match="a process is at work in it"):
            clean(copy, force=True)
        with pytest.raises(AllroundError, match="another process"):
            report(copy)
    assert (copy / "pieces").is_dir()


def test_clean_gives_back_what_the_results_do_without(copy: Path) -> None:
    """The report made again has the same bytes; a file of the user's, and a piece that was changed, stay."""
    results = [copy / name for name in ("report.html", "report.json", "scoreboard.json", "scoreboard.md")]
    before = [path.read_bytes() for path in results]
    size = read_run(copy).pieces
    head = next(copy.glob("pieces/head-species-*"))
    (head / "mine.txt").write_text("precious")
    changed = next(copy.glob("pieces/head-petal-*/heads.safetensors"))
    changed.write_bytes(changed.read_bytes()[:-1])
    names = {path.parent.name for path in copy.glob("pieces/*/piece.json")}

    would = clean(copy, dry_run=True, keep=["specialist-*"])
    assert read_run(copy).pieces > size, "nothing was removed"
    found = clean(copy, keep=["specialist-*"])
    assert found == would
    assert sorted(found.kept) == sorted(name for name in names if name.startswith("specialist-"))
    assert found.changed == [changed.parent.name]
    assert set(found.pieces) == names - set(found.kept) - set(found.changed)
    left = {path.name for path in copy.glob("pieces/*")}
    assert left == {*found.kept, changed.parent.name, head.name}
    assert [path.name for path in head.iterdir()] == ["mine.txt"]
    kept = sum(path.stat().st_size for path in copy.glob("pieces/**/*") if path.is_file())
    assert found.freed == size - (kept - len("precious") + 1)
    report(copy)
    assert [path.read_bytes() for path in results] == before
    assert len(clean(copy, force=True).pieces) == 2, "now the specialists too"


def test_a_report_that_somebody_changed_is_not_replaced(copy: Path) -> None:
    page = copy / "report.html"
    whole = page.read_text()
    page.write_text("mine")
    with pytest.raises(AllroundError, match=r"report.html(.|\n)*changed since it was written"):
        report(copy)
    report(copy, force=True)
    assert page.read_text() == whole
    (copy / "report.json").write_text('{"commands": 3}')
    with pytest.raises(AllroundError, match="commands: Input should be a valid string"):
        report(copy)


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    for act in (read_run, clean, report):
        with pytest.raises(AllroundError, match="no command of allround works there"):
            act(tmp_path)
    with output_folder(tmp_path / "model", "tune") as new:
        (new / "weights").write_text("x")
    assert read_run(tmp_path / "model").state == "finished"
    for act in (clean, report):
        with pytest.raises(AllroundError, match="'tune' wrote it"):
            act(tmp_path / "model")
    with pytest.raises(AllroundError, match="there is no such folder"):
        find_runs(tmp_path / "none")


def test_two_runs_are_compared_row_by_row(made: Path, copy: Path) -> None:
    same = compare_runs(made, copy)
    assert same.settings == {} and [score.task for score in same.scores] == ["species", "petal"]
    assert {score.verdict for score in same.scores} == {"no difference found"}
    floor = compare_runs(copy, made, system="floor")
    assert floor.systems == ("floor", "floor")

    value = json.loads((copy / "scoreboard.json").read_text())
    value["provenance"]["settings"]["epochs"] = 7
    value["best"] = "floor"
    (copy / "scoreboard.json").write_text(json.dumps(value))
    found = compare_runs(made, copy)
    assert found.settings == {"settings.epochs": (1, 7)} and found.systems[1] == "floor"
    species = found.scores[0]
    board = Scoreboard.load(made)
    scores = [board.cells[name]["species"].score for name in ("floor", str(board.best))]
    assert (species.second, species.first) == tuple(scores)
    assert species.verdict == "worse" and species.difference.high is not None and species.difference.high < 0
    (copy / "predictions" / "floor" / "species.parquet").unlink()
    assert compare_runs(made, copy).scores[0].verdict is None, "without its rows there is no verdict"
    with pytest.raises(AllroundError, match="did you mean 'average'"):
        compare_runs(made, copy, system="averag")
    printed = cli("runs", "diff", made, copy)
    assert "settings.epochs: 1 -> 7" in printed and "no verdict" in printed


def test_tables_of_a_run(made: Path, tmp_path: Path) -> None:
    board = Scoreboard.load(made)
    assert cli("report", made, "--table", "csv") == board.to_csv() == table(made, "csv")
    cli("report", made, "--table", "latex", "--no-intervals", "--out", tmp_path / "table.tex")
    assert (tmp_path / "table.tex").read_text() == board.to_latex(intervals=False)
    with pytest.raises(AllroundError, match="did you mean 'latex'"):
        table(made, "latx")
    assert str(made / "report.html") in cli("report", made)
