"""Help as plain text: rich takes longer to import than everything else that help needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

#: What `typer.Typer` is given for a command, and for a group of commands.
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}
GROUP: dict[str, Any] = {**PLAIN, "no_args_is_help": True, "context_settings": {"max_content_width": 100}}


class Group(TyperGroup):
    """A group that lists its commands with the whole first paragraph of their help."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        rows = [(name, " ".join(self.summary(name).split("\n\n")[0].split())) for name in self.commands]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def summary(self, name: str) -> str:
        """The help of a command, of which the first paragraph is shown in the list."""
        return self.commands[name].help or ""
