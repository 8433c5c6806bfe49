"""The options of training come from `Settings`; the commands are files that are read when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
import typer

from allround.cli.app import COMMANDS, app
from allround.cli.training_options import ALL, EncoderSettings, help_of, training_options
from allround.core.errors import AllroundError
from allround.training.settings import Settings


def command(**given: object) -> tuple[Settings, EncoderSettings]:
    """What a command with all options of training gets."""
    found: list[tuple[Settings, EncoderSettings]] = []

    @training_options(*ALL)
    def run(*, settings: Settings, encoder: EncoderSettings) -> None:
        found.append((settings, encoder))

    options = dict.fromkeys(
        [*ALL, "task_rate", "task_batch", "restore_best_per_task", "term", "max_length", "pairs", "instructions"]
    )
    for name in ("task_rates", "batch_sizes", "restore_heads", "terms"):
        del options[name]
    run(**{**options, "raw_scale": False, "restore_best_per_task": False, **given})
    return found[0]


def test_what_is_not_given_is_the_default() -> None:
    assert command() == (Settings(), {})


def test_what_is_given_becomes_a_setting_of_its_type() -> None:
    settings, encoder = command(
        epochs=3,
        sample="temperature:temperature=3",
        task_rate=["trec=0.5"],
        task_batch=["trec=8", "regression=4"],
        heads="tuned",
        restore_best_per_task=True,
        term=["l2_sp:weight=0.5"],
        max_length=64,
    )
    assert settings == Settings(
        epochs=3,
        sample="temperature",
        sample_settings={"temperature": 3},
        task_rates={"trec": 0.5},
        batch_sizes={"trec": 8, "regression": 4},
        heads="tuned",
        restore_heads=True,
        terms={"l2_sp": {"weight": 0.5}},
    )
    assert encoder == {"max_length": 64}


def test_a_list_names_its_own_option_in_an_error() -> None:
    with pytest.raises(AllroundError, match=r"read --task-batch 'trec=many'(.|\n)*a whole number"):
        command(task_batch=["trec=many"])


def test_every_setting_is_described() -> None:
    kept_for_python = {"start", "stop", "sample_settings", "balance_settings", "share_settings"}
    assert set(help_of(Settings)) == {field.name for field in fields(Settings)} - kept_for_python


def test_help_is_the_part_of_an_entry_that_is_not_indented() -> None:
    class Described:
        """What is described.

        first: The help
        of two lines.
            And what is not help.
        second, third: Two at once are no option.
        fourth: More.
        """

    assert help_of(Described) == {"first": "The help of two lines.", "fourth": "More."}


def test_a_command_alone_reads_its_own_file_alone() -> None:
    code = """
import sys
from allround.cli.app import app
app(["doctor", "--help"], standalone_mode=False)
print("read:", sorted(name for name in sys.modules if name in ("allround.cli.doctor", "allround.cli.build")))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stdout.endswith("read: ['allround.cli.doctor']\n"), found.stderr


def test_every_command_has_a_file_and_its_own_name() -> None:
    group = typer.main.get_command(app)
    assert [group.commands[name].name for name in group.commands] == list(COMMANDS)  # type: ignore[attr-defined]
