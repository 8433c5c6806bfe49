"""The commands methods list, methods show and methods check."""

from __future__ import annotations

import ast
from typing import Annotated

import typer

from allround.cli.help import GROUP, Group
from allround.cli.screen import give
from allround.core import registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError, suggestion
from allround.core.reading import read_text

app = typer.Typer(help="Look at the methods there are.", cls=Group, **GROUP)


@app.command("list", epilog="Example: `allround methods list --family merge --json`")
def methods_list(
    family: Annotated[str | None, typer.Option(help="One family, such as merge, codec, metric or encoder.")] = None,
) -> object:
    """List every method: name, room, family, what it needs, and the paper it comes from."""
    found = [registry.find(one, name) for one, names in registry.methods(family).items() for name in names]
    last = None
    for entry in found:
        if entry.family != last:
            typer.echo(f"{'' if last is None else chr(10)}{entry.family} (room: {entry.room})")
            last = entry.family
        typer.echo(f"  {entry.name:<22} {entry.summary}")
    return [_about(entry) for entry in found]


@app.command("show", epilog="Example: `allround methods show ties`")
def methods_show(
    name: Annotated[str, typer.Argument(help="The method.")],
    family: Annotated[str | None, typer.Option(help="Its family, where two have a method of that name.")] = None,
) -> object:
    """Show one method: source, parameters, formula and example."""
    found = [e for e in registry.entries(family) if e.name == name]
    if not found:
        known = {e.name for e in registry.entries(family)}
        close = [n for n in known if suggestion(name, [n]).startswith("did")]
        do = suggestion(name, close) if close else "see: allround methods list"
        raise AllroundError(f"show the method '{name}'", "no method has that name", do)
    for entry in found:
        typer.echo(f"{entry.name}: {entry.summary}\n")
        typer.echo(f"family  {entry.family} (room: {entry.room})\nsource  {entry.source}")
        for title in entry.papers:
            typer.echo(f"paper   {title}")
        for p in entry.parameters:
            values = f"; searched: {', '.join(str(v) for v in p.search)}" if p.search else ""
            type_ = "float, or one for each model" if p.type == "Each" else p.type
            typer.echo(f"--{p.name.replace('_', '-')} {type_} (default {p.default}{values})")
        for node in ast.parse(read_text(entry.path, what="method file")).body:
            if getattr(node, "name", None) == entry.attribute:
                typer.echo(f"\n{ast.get_docstring(node)}")  # type: ignore[arg-type]
    return _about(found[0]) if len(found) == 1 else [_about(entry) for entry in found]


@app.command("check", epilog="Example: `allround methods check mine.py`")
def methods_check(
    method: Annotated[str, typer.Argument(metavar="FILE", help="A plug-in file; or the name of a method.")],
    family: Annotated[str | None, typer.Option(help="Its family, where two have a method of that name.")] = None,
) -> object:
    """Run the checks that all methods of its family pass, and say which hold.

    The exit code is 1 if one fails.
    """
    from allround.cli.methods_check import check_command

    found = check_command(method, family)
    give(found)
    raise typer.Exit(1 if found["failed"] else 0)


def _about(entry: Entry) -> dict[str, object]:
    parameters = [
        {"name": p.name, "type": p.type, "default": p.default, "search": list(p.search)} for p in entry.parameters
    ]
    return {
        "name": entry.name,
        "room": entry.room,
        "family": entry.family,
        "summary": entry.summary,
        "source": entry.source,
        "papers": list(entry.papers),
        "needs": list(entry.needs),
        "parameters": parameters,
    }
