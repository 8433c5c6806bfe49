"""The command materialise: one task's model out of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import ForceOption, OutOption, TaskArgument

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround materialise store trec -o models/trec`")
def materialise(
    store: Annotated[Path, typer.Argument(help="A folder that `allround compress` wrote.")],
    task: TaskArgument,
    out: OutOption,
    force: ForceOption = False,
) -> object:
    """Write one task's model out of a store, as a folder of its own."""
    from allround.composition.residuals.store import Store
    from allround.core.jobs import quiet_libraries

    quiet_libraries()
    Store.open(store).materialise(task, out, force=force)
    typer.echo(f"model     {out}")
    return {"model": out, "task": task}
