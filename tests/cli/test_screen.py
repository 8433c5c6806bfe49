"""Every command says its words, or its result as JSON, or nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from allround.cli.app import app
from allround.cli.screen import plain
from allround.core.errors import AllroundError
from allround.core.progress import Progress

Walked = tuple[str, "typer.core.TyperCommand"]


def walk(group: object, before: str = "") -> Iterator[Walked]:
    """All commands with their whole names."""
    for name in group.commands:  # type: ignore[attr-defined]
        command = group.commands[name]  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from walk(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


COMMANDS = dict(walk(typer.main.get_command(app)))


def test_every_command_takes_the_common_options_and_gives_a_result() -> None:
    assert {"build", "merge", "tasks check", "methods show", "runs clean"} <= set(COMMANDS)
    for name, command in COMMANDS.items():
        options = [option for param in command.params for option in param.opts]
        for option in ("--quiet", "--json", "--plugin"):
            assert options.count(option) == 1, f"{name} {option}"
        assert command.callback is not None
        given = inspect.signature(inspect.unwrap(command.callback)).return_annotation
        # Answers are printed one by one, as they come, and a server ends without any.
        assert given == "object" or name in ("predict", "serve"), f"{name} returns no result"


def run(*words: str) -> tuple[str, str]:
    found = CliRunner().invoke(app, words, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout, found.stderr


def test_words_json_or_nothing() -> None:
    words, _ = run("tasks", "check", "digits", "--only", "ink")
    assert "1 task can be used" in words
    assert run("tasks", "check", "digits", "--only", "ink", "--quiet") == ("", "")
    found = json.loads(run("tasks", "check", "digits", "--only", "ink", "--json")[0])
    assert found["ink"]["metric"] == "pearson" and found["ink"]["rows"]["test"] == 449
    assert run("tasks", "check", "digits", "--only", "ink") == (words, ""), "one command leaves the next as it was"
    assert json.loads(run("methods", "show", "ties", "--json", "--quiet")[0])["name"] == "ties"


def test_a_command_that_ends_with_a_code_of_its_own_gives_its_result_too() -> None:
    assert "torch" in json.loads(run("doctor", "--json")[0])["packages"]


def test_errors_are_said_in_any_case() -> None:
    with pytest.raises(AllroundError, match="did you mean 'ties'"):
        CliRunner().invoke(app, ["methods", "show", "tie", "--quiet"], catch_exceptions=False)
    assert not Progress().quiet, "and the next command speaks again"


def test_plain_values() -> None:
    assert plain({1: [float("inf"), 0.5, True, None]}) == {"1": [None, 0.5, True, None]}
