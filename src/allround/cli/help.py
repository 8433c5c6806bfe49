"""Help as plain text: rich takes longer to import than everything else that help needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from allround.cli.config import LEAST, use_config
from allround.cli.screen import be_quiet, print_json

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter, Parameter

#: What `typer.Typer` is given for a command, and for a group of commands.
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}
GROUP: dict[str, Any] = {**PLAIN, "no_args_is_help": True, "context_settings": {"max_content_width": 100}}


class Group(TyperGroup):
    """A group that lists its commands with the whole first paragraph of their help. Each takes the common options."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        for command in self.commands.values():
            add_common_options(command)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        rows = [(name, " ".join(self.summary(name).split("\n\n")[0].split())) for name in self.commands]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def summary(self, name: str) -> str:
        """The help of a command, of which the first paragraph is shown in the list."""
        return self.commands[name].help or ""


def _use(files: list[Path] | None) -> None:
    from allround.core.plugins import use_plugin

    for file in files or ():
        use_plugin(file)


#: It comes into use before the command reads its other options, which may name it.
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Use a method from this Python file too; may be repeated.",
        callback=_use,
        is_eager=True,
        expose_value=False,
    ),
]


QuietOption = Annotated[
    bool,
    typer.Option("--quiet", help="Print nothing but errors.", callback=be_quiet, is_eager=True, expose_value=False),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result as JSON instead of words.",
        callback=print_json,
        is_eager=True,
        expose_value=False,
    ),
]


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Take options from this YAML file; those given here win.",
        callback=use_config,
        is_eager=True,
        expose_value=False,
    ),
]


def _takes_all(
    config: ConfigOption = None, plugin: PluginOption = None, quiet: QuietOption = False, as_json: JsonOption = False
) -> None:
    """A command that has no options but the common ones."""


@cache
def common_options() -> tuple[Parameter, ...]:
    """`--plugin FILE`, `--quiet` and `--json`, which every command takes, and `--config FILE`."""
    app = typer.Typer(add_completion=False)
    app.command()(_takes_all)
    return tuple(param for param in typer.main.get_command(app).params if param.name != "help")


def add_common_options(command: Command) -> None:
    """Give a command the common options, but for those that it has already; `--config` where it has many options."""
    own = {option for param in command.params for option in param.opts}
    own |= {"--config"} if sum(option.startswith("--") for option in own) < LEAST else set()
    command.params += [param for param in common_options() if not own & set(param.opts)]
