"""Help as plain text: rich takes longer to import than all else that help needs."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

#: How every group of commands shows its help.
PLAIN: dict[str, Any] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,
    "context_settings": {"max_content_width": 100},
}


class Group(TyperGroup):
    """A group that lists its commands with the whole first paragraph of their help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, " ".join((c.help or "").split("\n\n")[0].split())) for name, c in commands if c]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
