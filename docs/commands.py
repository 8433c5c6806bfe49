"""The reference of the command line, as Markdown, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main

#: What stands before the options that every command takes.
_COMMON = "`allround --version` shows the version. Every command takes these; `--config` those that have many options."
_OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]*)(?![\w-])")


def commands(program: Any) -> Iterator[tuple[str, Any]]:
    """The commands of a program by the words that call them, those of groups each by its own."""
    for name in program.commands:
        command = program.commands[name]
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", found) for inner, found in commands(command))
        else:
            yield name, command


def reference() -> str:
    """All commands with their arguments and options."""
    from allround.cli.app import app
    from allround.cli.help import common_options

    program = typer.main.get_command(app)
    parts = ["## Options of every command", _COMMON, _options(list(common_options()))]
    for name, command in commands(program):
        parts += [f"## {name}", _usage(name, command), _prose(command.help or "")]
        if arguments := [p for p in command.params if p.param_type_name == "argument"]:
            parts.append(_table("argument", [(f"`{_placeholder(p)}`", _prose(p.help or "")) for p in arguments]))
        common = {id(option) for option in common_options()}
        if options := [p for p in _own(command) if id(p) not in common]:
            parts.append(_options(options))
        if command.epilog:
            parts.append(_prose(command.epilog))
    return "\n\n".join(part for part in parts if part)


def _own(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help" and not p.hidden]


def _usage(name: str, command: Any) -> str:
    words = ["allround", name]
    for p in command.params:
        if p.param_type_name == "argument":
            shown = _placeholder(p) + ("..." if p.nargs == -1 else "")
            words.append(shown if p.required else f"[{shown}]")
    words += [f"{p.opts[0]} {_placeholder(p)}" for p in _own(command) if p.required]
    return f"```text\n{' '.join(words)} [OPTIONS]\n```"


def _placeholder(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper().strip("[]").replace("...", "")


def _options(options: list[Any]) -> str:
    rows = []
    for p in options:
        names = [*sorted(p.opts, key=lambda one: not one.startswith("--")), *p.secondary_opts]
        value = f" {p.metavar}" if p.metavar and not p.is_flag else ""
        shown = "<br>".join(f"`{one}{value}`" for one in names)
        about = _prose(p.help or "")
        valued = p.default not in (None, "", ()) and not isinstance(p.default, bool)
        if valued and "default" not in about.lower() and not p.required:
            about += f" Default: `{p.default}`."
        elif p.default is True and p.secondary_opts:
            about += f" Default: `{p.opts[0]}`."
        rows.append((shown, f"{about} May be repeated." if p.multiple and "repeated" not in about else about))
    return _table("option", rows)


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head} | what it says |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {about.replace('|', chr(92) + '|')} |" for name, about in rows)])


def _prose(text: str) -> str:
    """Help as Markdown: what begins with two dashes is code."""
    parts = re.split(r"(`[^`]*`)", "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")))
    return "".join(part if part.startswith("`") else _OPTION.sub(r"`\1`", part.replace("<", "&lt;")) for part in parts)
