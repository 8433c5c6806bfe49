"""The exit codes that the documentation lists, each as a command ends with it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from allround.cli import main
from allround.cli.stopping import Terminated
from allround.core import registry

PAGE = Path(__file__).parents[2] / "docs" / "runs.md"


def ends(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command line, as the program gives it."""
    monkeypatch.setattr(sys, "argv", ["allround", *words])
    monkeypatch.setattr("allround.cli.stopping.heed_interruptions", lambda: None)
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line in which this happens."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(registry, "methods", fail)
    return ["methods", "list"]


def test_every_listed_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)}
    found = {
        "it worked": ends(["--version"], monkeypatch),
        "a wrong request": ends(["runs", "show", str(tmp_path)], monkeypatch),
        "a wrong option": ends(["runs", "show", "--many"], monkeypatch),
        "no such command": ends(["bild"], monkeypatch),
        "the system": ends(raising(PermissionError(13, "Permission denied", "file"), monkeypatch), monkeypatch),
        "Ctrl-C": ends(raising(KeyboardInterrupt(), monkeypatch), monkeypatch),
        "SIGTERM": ends(raising(Terminated(), monkeypatch), monkeypatch),
    }
    assert found == {
        "it worked": 0,
        "a wrong request": 2,
        "a wrong option": 2,
        "no such command": 2,
        "the system": 1,
        "Ctrl-C": 130,
        "SIGTERM": 143,
    }
    assert set(found.values()) == listed
    said = capsys.readouterr().err
    assert "no command of allround works there" in said and "stopped: nothing was written" in said
