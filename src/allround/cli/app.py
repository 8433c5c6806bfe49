"""The program `allround`: its commands, each of which is a file that is read when it is asked for.

A command imports what it needs when it runs, so that help is instant.
"""

from __future__ import annotations

import inspect
from collections import UserDict
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allround.cli.help import GROUP, Group, plugin_option
from allround.cli.stopping import Commands

if TYPE_CHECKING:
    from typer._click import Command

#: In the order of the help. `extract-lora` is the `app` of extract_lora.py.
COMMANDS = (
    "build",
    "train",
    "compare-training",
    "tune",
    "merge",
    "stats",
    "align",
    "zip",
    "diff",
    "extract-lora",
    "loop",
    "compress",
    "materialise",
    "evaluate",
    "predict",
    "doctor",
    "tasks",
    "methods",
)


class CommandFiles(UserDict[str, "Command | None"]):
    """The commands by name; a file is imported when its command is looked up first."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COMMANDS))

    def __getitem__(self, name: str) -> Command:
        found = self.data[name]
        if found is None:
            found = self.data[name] = typer.main.get_command(_read(name))
            found.name = name
            if not isinstance(found, Group):
                found.params.append(plugin_option())
        return found


def _read(name: str) -> typer.Typer:
    found: typer.Typer = import_module(f"allround.cli.{name.replace('-', '_')}").app
    return found


class Program(Commands):
    """The group of all commands."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.commands: Any = CommandFiles()

    def summary(self, name: str) -> str:
        """From the file alone: to make all commands takes longer than to list them."""
        file = _read(name)
        command = file.registered_commands[0].callback
        return (file.info.help if file.info.cls else None) or inspect.getdoc(command) or ""


app = typer.Typer(
    cls=Program,
    help="Turn many tasks, or many fine-tuned specialists, into one all-round model, and prove it per task.",
    pretty_exceptions_enable=False,
    epilog="Try it: `allround build digits --out runs/digits` (no network, no data needed).",
    **GROUP,
)


@app.callback(invoke_without_command=True)
def _start(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        import allround

        typer.echo(f"allround {allround.__version__}")
        raise typer.Exit
