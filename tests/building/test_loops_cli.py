"""The loop command: its options, its table, its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import allround
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.encoders.small_image import SmallImage

DATA = [
    "--only",
    "digit,ink",
    "--limit",
    "train=40",
    "--limit",
    "validation=20",
    "--limit",
    "test=20",
    "--workers",
    "1",
]


@pytest.fixture
def base(small_image: SmallImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("allround.core.jobs.available_cores", lambda: 1)
    (tmp_path / "base").mkdir()
    small_image.save(tmp_path / "base")
    return tmp_path / "base"


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["loop", *map(str, words)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_it_prints_the_rounds_and_the_scores(base: Path, tmp_path: Path) -> None:
    more = ["--rounds", 2, "--epochs", 2, "--method", "task_arithmetic", "--scale", 0.5]
    shown = run("atm", "digits", "--base", base, *DATA, *more, "-o", tmp_path / "out")
    lines = [line.split() for line in shown.splitlines()]
    heads = next(number for number, line in enumerate(lines) if line[:3] == ["round", "digit", "ink"])
    assert [line[0] for line in lines[heads + 1 : heads + 4]] == ["0", "1", "2"]
    assert "task_arithmetic scale: 0.5" in shown and "was kept" in shown and f"model   {tmp_path / 'out'}" in shown
    made = allround.load(tmp_path / "out").facts["made_by"]
    assert made["loop"] == "atm" and made["parameters"] == {"rounds": 2, "method": "task_arithmetic", "trials": 0}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["atn"], "did you mean 'atm'"),
        (["atm", "--target", "digit"], "it has no parameter 'target'"),
        (["atm", "--rounds", "two"], "it is not a whole number"),
        (["atm", "--rounds", "-1"], "rounds must be 0 or more"),
        (["atm", "--rounds"], "no value follows it"),
        (["fork_merge", "--target", "dgit"], "did you mean 'digit'"),
        (["fork_merge", "--target", "digit", "--method", "ties"], "has no parameter 'method'"),
        (["atm", "other"], "'other' is given beside the suite"),
    ],
)
def test_bad_words_are_answered(words: list[str], told: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match=told):
        run(words[0], "digits", "--base", base, *DATA, *words[1:], "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
