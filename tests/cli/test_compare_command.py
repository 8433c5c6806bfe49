"""The command that compares joint trainings: what it prints and leaves, its options, its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from allround.cli.app import app
from allround.cli.words import methods_of
from allround.core.errors import AllroundError
from allround.evaluation.training import TrainingComparison


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["compare-training", *map(str, words)], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite file with two tasks on a table."""
    monkeypatch.setattr("allround.core.jobs.available_cores", lambda: 1)
    lines = ["length,width,species,petal"]
    for i in range(60):
        kind = i % 3
        lines.append(f"{4 + kind + i % 7 / 10:.1f},{3 - kind / 2 + i % 5 / 10:.1f},s{kind},{1 + kind + i % 4 / 10:.1f}")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "suite.yml").write_text(
        "tasks:\n"
        "  species: {source: data.csv, inputs: [length, width], target: species, kind: classification}\n"
        "  petal: {source: data.csv, inputs: [length, width], target: petal, kind: regression}\n"
    )
    return tmp_path / "suite.yml"


def test_it_prints_the_table_and_the_verdict_and_says_where_the_files_are(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--base", "small_table", "--epochs", 1, "--trials", 1, "--seeds", 1, "--sweep", 2, "--workers", 1]
    shown = run(suite, *words, "--methods", "tuned, uw:flat=0.01", "--mix", "all", "--raw-scale", "-o", out)
    lines = [line.split() for line in shown.splitlines()]
    names = [line[0].rstrip("*") for line in lines if line]
    assert all(name in names for name in ("specialists", "equal", "tuned", "species", "petal"))
    assert any("uw:flat=0.01" in line for line in shown.splitlines())
    assert "settings were compared on validation rows" in shown and "There is one seed only" in shown
    assert f"page     {out}/comparison.html" in shown
    found = TrainingComparison.load(out)
    assert found.settings["mix"] == "all" and found.settings["raw scale"] is True and found.settings["epochs"] == 1
    assert found.method("uw:flat=0.01").settings == {"flat": 0.01}
    assert [len(found.sweep), len(found.seeds), found.method("equal").cost.choices] == [2, 1, 1]


def test_methods_have_commas_between_and_in_brackets() -> None:
    assert methods_of(" equal , fixed:weights=[1, 2];flat=0.1,uw,fixed:weights={a: 1, b: 2}") == [
        "equal",
        "fixed:weights=[1, 2];flat=0.1",
        "uw",
        "fixed:weights={a: 1, b: 2}",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--methods", ","], "it names nothing"),
        (["--methods", "uww"], "did you mean 'uw'"),
        (["--methods", "tuned", "--sweep", "1"], "must try at least 2 weights"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--mix", "al"], "mix"),
        (["--only", "petal"], "it has only one task"),
    ],
)
def test_bad_words_are_answered(words: list[str], told: str, suite: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match=told):
        run(suite, "--base", "small_table", *words, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
