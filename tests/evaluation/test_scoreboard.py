"""What the board says, and that it comes back from disk as it was."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from boards import RIGHT, SYSTEMS, board, parts, slower
from rich.console import Console

from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.core.words import shown
from allround.evaluation.pictures import COLOURS, svg_text
from allround.evaluation.scoreboard import Scoreboard, ScoredSystem


def test_cells_hold_scores_and_retention() -> None:
    made = board()
    cell = made.cells["average"]["one"]
    assert (cell.score, cell.n) == (0.6, 400)
    assert cell.retention == pytest.approx(0.6 / 0.95)
    assert cell.low is not None and cell.high is not None and cell.low < 0.6 < cell.high
    error = made.cells["average"]["error"]
    assert error.retention == pytest.approx(0.25 / 0.6)
    assert made.mean["average"].value == pytest.approx((2 * 0.6 / 0.95 + 0.25 / 0.6) / 3)
    assert made.worst["average"].task == "error"
    assert made.mean["specialists"].value == 1.0 and made.mean["specialists"].low == 1.0
    assert made.validation_mean("ties") == pytest.approx(0.9 / 0.95)
    assert made.rows == 1200


def test_verdicts() -> None:
    made = board()
    same = made.comparison("joint", "ties")
    assert same is not None and (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    assert same.verdict == "no difference found"
    assert same.words == (
        "joint vs ties: no difference found in mean retention (0.0 points [0.0, 0.0]); "
        "no difference found on all 3 tasks."
    )
    worse = made.comparison("average", "specialists")
    assert worse is not None and worse.verdict == "worse" and worse.task_words == "worse on all 3 tasks"
    planted = board(best="average").comparison("ties", "average")
    assert planted is not None and planted.verdict == "better"
    assert set(planted.tasks.values()) == {"better"}


def test_some_tasks_worse_reads_as_a_sentence() -> None:
    given = parts(names=("one", "two", "three"))
    given["predictions"]["ties", "one"] = given["predictions"]["specialists", "one"]
    found = board(**given).comparison("ties", "specialists")
    assert found is not None
    assert found.task_words == "worse on 3 of 4 tasks: two, three, error; no difference found on 1"


def test_the_answer_in_sentences() -> None:
    first, worst, cost, rivals = board().answer()
    assert first.startswith("The best single model, chosen on validation rows, is ties (TIES). It keeps 90.9% [")
    assert "as a mean over 3 tasks (1,200 test rows)" in first
    assert worst.startswith("The worst task of ties is error: 83.3% retention, rmse ")
    assert cost.startswith("It stores one encoder instead of 3, 100 parameters instead of 300.")
    assert rivals == "In mean retention it is better than average; no difference from joint was found."


def test_alone_there_are_scores_and_no_retention() -> None:
    given = parts()
    made = board(**{**given, "systems": [SYSTEMS[3]]}, validation=None, best=None)
    assert made.reference is None and made.mean == {} and made.comparisons == []
    assert made.cells["ties"]["one"].retention is None
    assert "retention" not in made.markdown().split("## How")[0].lower()
    assert Scoreboard.from_json(made.to_json()) == made


def test_round_trip(tmp_path: Path) -> None:
    made = board(notes={"tasks": {"one": ["a warning | here"]}, "budget": "Same rows."}, provenance={"seed": 0})
    made.save(tmp_path / "out")
    assert Scoreboard.load(tmp_path / "out") == made
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [MANIFEST, "scoreboard.json", "scoreboard.md"]
    text = (tmp_path / "out" / "scoreboard.md").read_text(encoding="utf-8")
    assert "a warning \\| here" in text and "Same rows." in text
    with pytest.raises(AllroundError, match="its format is 'other'"):
        Scoreboard.from_json({"format": "other"})


def test_fingerprint_is_blind_to_time_alone() -> None:
    made = board(provenance={"date": "today", "data": "abc"})
    again = board(systems=slower(SYSTEMS), provenance={"date": "tomorrow", "machine": "other", "data": "abc"})
    assert made.fingerprint() == again.fingerprint()
    assert made.fingerprint() == Scoreboard.from_json(json.loads(json.dumps(made.to_json()))).fingerprint()
    assert made.fingerprint() != board(seed=1).fingerprint()
    assert made.fingerprint() != board(provenance={"data": "abd"}).fingerprint()


def test_markdown_tables_are_whole() -> None:
    lines = board(names=("one", "a|b*c")).markdown().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in tables}) == 2
    assert any("a\\|b\\*c" in line for line in tables)


def test_printed_board_is_ascii_and_fits() -> None:
    names = tuple(f"some_long_task_{i}" for i in range(10))
    systems = [ScoredSystem(s.name, s.role, s.title, s.settings, s.single, s.cost) for s in SYSTEMS]
    given = parts(names)
    for i in range(5):
        systems.append(ScoredSystem(f"another_merge_method_{i}", "merge"))
        for task in given["definitions"]:
            given["predictions"][systems[-1].name, task] = given["predictions"]["ties", task]
    out = io.StringIO()
    board(**{**given, "systems": systems}).print(Console(file=out, width=100))
    text = out.getvalue()
    text.encode("ascii")
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert all(name in text for name in names)


def test_a_name_cannot_steer_the_terminal() -> None:
    out = io.StringIO()
    board(names=("one", "\x1b[2Jgone", "[red]x[/red]")).print(Console(file=out, width=120, force_terminal=True))
    assert "\x1b[2J" not in out.getvalue()
    assert "[red]x[/red]" in out.getvalue()


def test_metrics_of_errors_are_shown_in_their_units() -> None:
    assert shown(0.25, "lower") == "0.25" and shown(0.25, "higher") == "25.0"


def test_errors_in_words() -> None:
    with pytest.raises(AllroundError, match="did you mean 'ties'"):
        board(best="tise")
    given = parts()
    del given["predictions"]["ties", "two"]
    with pytest.raises(AllroundError, match="'ties' did not answer the task 'two'"):
        board(**given)
    with pytest.raises(AllroundError, match="two systems are called 'ties'"):
        board(systems=[*SYSTEMS, SYSTEMS[3]])
    with pytest.raises(AllroundError, match="not on the scoreboard"):
        board().system("none")
    assert set(RIGHT) == {s.name for s in SYSTEMS}


def test_a_system_of_another_sort_stands_among_the_others() -> None:
    """An ensemble, say: it is a rival where it is single, and it is drawn."""
    systems = [replace(s, role="ensemble") if s.name == "average" else s for s in SYSTEMS]
    made = board(systems=systems)
    assert made.answer()[3] == "In mean retention it is better than average; no difference from joint was found."
    apart = board(systems=[replace(s, single=False) if s.name == "average" else s for s in systems])
    assert apart.answer()[3] == "In mean retention no difference from joint was found."
    assert "ensemble" in made.markdown()
    assert COLOURS["m2"][0] in svg_text(made.plot_retention()), "in the colour of all sorts that have none"
    with pytest.raises(AllroundError, match="its role is 'mean of three'"):
        ScoredSystem("average", "mean of three")


def test_a_frame_has_a_row_for_each_system_and_task_with_costs() -> None:
    made = board()
    frame = made.to_frame()
    assert len(frame) == len(made.systems) * len(made.definitions)
    row = frame[(frame.system == "ties") & (frame.task == "error")].iloc[0]
    cell = made.cells["ties"]["error"]
    assert (row.score, row.low, row.retention_high, row.n) == (cell.score, cell.low, cell.retention_high, 400)
    assert row.metric == "rmse" and row.role == "merge" and row.best
    assert (row.parameters_stored, row.search_choices, row.training_seconds) == (100, 9, 100.0)
    assert frame[frame.best].system.unique().tolist() == ["ties"]
    assert board(reference=None, best=None).to_frame().retention.isna().all()
