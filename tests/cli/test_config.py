"""Options from a YAML file, and a run that is repeated by what it keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from allround.cli.app import app
from allround.cli.config import read_config
from allround.core.errors import AllroundError


def cli(*words: object, exits: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == exits, result.output
    return result.stdout


def options(folder: Path, text: str, command: str = "build") -> dict[str, object]:
    (folder / "options.yml").write_text(text)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return read_config(folder / "options.yml", commands[command].params)


def test_values_are_those_of_the_command_line(tmp_path: Path) -> None:
    text = """
        suite: suite.yml
        out: runs/a
        learning-rate: 1e-4
        max_parameters: 1000000
        joint: false
        methods: [average, ties]
        limit: {train: 100, test: 50}
        specialist: [topic=models/topic]
        keep: topic=0.9
        worst:
    """
    assert options(tmp_path, text) == {
        "suite": "suite.yml",
        "out": "runs/a",
        "learning_rate": "0.0001",
        "max_parameters": "1000000",
        "joint": False,
        "methods": "average,ties",
        "limit": ["train=100", "test=50"],
        "specialist": ["topic=models/topic"],
        "keep": ["topic=0.9"],
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("epoch: 3", "did you mean 'epochs'"),
        ("force: true", "the command has no option 'force'"),
        ("joint: 1", "the option is a switch"),
        ("epochs: {a: 1}", "the option takes one value"),
        ("limit: {a: [1]}", "nested deeper"),
        ("- epochs", "it is not one list of"),
        ("a: 1\na: 2", "stands twice"),
    ],
)
def test_what_is_not_an_option_is_an_error(text: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match=found):
        options(tmp_path, text)


def test_commands_with_many_options_take_it() -> None:
    taking = {
        name
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
        if any("--config" in param.opts for param in command.params)
    }
    assert {"build", "train", "tune", "compare-training", "loop", "merge"} <= taking
    assert not {"doctor", "materialise"} & taking


def test_a_run_is_repeated_by_the_file_that_it_keeps(tmp_path: Path) -> None:
    """The command line wins over the file; what is kept is what was done."""
    lines = ["a,b,kind"] + [f"{i % 7},{(i * 3) % 5},{'x' if i % 7 > 3 else 'y'}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "suite.yml").write_text(
        "tasks:\n  sort: {source: rows.csv, inputs: [a, b], target: kind, kind: classification}\n"
    )
    asked = {"suite": str(tmp_path / "suite.yml"), "task": "sort", "base": "small_table", "epochs": 3, "seed": 5}
    (tmp_path / "options.yml").write_text(yaml.safe_dump({**asked, "precision": "fp32"}))
    cli("tune", "--config", tmp_path / "options.yml", "--epochs", 1, "--out", tmp_path / "one", "--quiet")
    kept = yaml.safe_load((tmp_path / "one" / "config.yml").read_text())
    assert kept == {**asked, "epochs": 1, "out": str(tmp_path / "one"), "precision": "fp32"}
    assert "allround tune --config THIS_FILE" in (tmp_path / "one" / "config.yml").read_text()
    cli("tune", "--config", tmp_path / "one" / "config.yml", "--out", tmp_path / "two", "--quiet")
    scores = [json.loads((tmp_path / name / "allround.json").read_text())["scores"] for name in ("one", "two")]
    assert scores[0] == scores[1]
    assert f"allround tune --config {tmp_path / 'one' / 'config.yml'}" in cli("runs", "show", tmp_path / "one")
    wrong = CliRunner().invoke(app, ["tune", "--config", str(tmp_path / "options.yml"), "--epochs", "many"])
    assert wrong.exit_code == 2
