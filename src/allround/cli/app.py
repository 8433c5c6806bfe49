"""The program `allround`: its commands, each of which is a file that is read when it is asked for.

A command imports what it needs when it runs, so that help is instant.
"""

from __future__ import annotations

import ast
from collections import UserDict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allround.cli.help import GROUP, Group, add_common_options
from allround.cli.stopping import Commands
from allround.core.reading import read_text

if TYPE_CHECKING:
    from typer._click import Command

#: In the order of the help. `extract-lora` is the `app` of extract_lora.py.
COMMANDS = (
    "build",
    "train",
    "compare-training",
    "tune",
    "rerank",
    "generative",
    "queries",
    "trans-encoder",
    "relate",
    "sources",
    "merge",
    "stats",
    "align",
    "zip",
    "diff",
    "extract-lora",
    "loop",
    "stream",
    "add-task",
    "discover",
    "shrink",
    "compress",
    "export",
    "index",
    "materialise",
    "library",
    "evaluate",
    "compare",
    "reduce",
    "predict",
    "serve",
    "doctor",
    "tasks",
    "methods",
    "runs",
    "report",
    "push",
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
                add_common_options(found)
        return found


def _read(name: str) -> typer.Typer:
    found: typer.Typer = import_module(f"allround.cli.{_module(name)}").app
    return found


def _module(name: str) -> str:
    return name.replace("-", "_")


class Program(Commands):
    """The group of all commands."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.commands: Any = CommandFiles()

    def summary(self, name: str) -> str:
        """From the text of the file alone: to import all commands takes longer than to list them."""
        path = Path(__file__).with_name(f"{_module(name)}.py")
        return summary_of(read_text(path, what="file of a command"))


def summary_of(text: str) -> str:
    """What the file of a command says that it does: the help of a group, or the docstring of the command.

    >>> summary_of('app = Typer(help="Look at suites.")')
    'Look at suites.'
    """
    tree = ast.parse(text)
    calls = (node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call))
    helps = (keyword.value for call in calls for keyword in call.keywords if keyword.arg == "help")
    group = next((value.value for value in helps if isinstance(value, ast.Constant)), None)
    commands = (node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_command(node))
    return str(group) if group else ast.get_docstring(next(commands)) or ""


def _is_command(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("app.command") for decorator in function.decorator_list)


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
