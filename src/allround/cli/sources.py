"""The command sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import BaseOption, DataOption, ForceOption, SeedOption
from allround.cli.words import methods_of

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround sources models/* --for new.yml --top 5`")
def sources(
    starts: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... | SUITE", help="Folders of saved models; or one suite, whose tasks are the sources."
        ),
    ],
    new: Annotated[str, typer.Option("--for", metavar="SUITE", help="The suite file (or suite) with the new task.")],
    task: Annotated[str | None, typer.Option(help="The new task, where that suite has several.")] = None,
    top: Annotated[int, typer.Option(help="How many to name as the ones to try.")] = 5,
    base: BaseOption = None,
    estimators: Annotated[
        str | None,
        typer.Option(
            help="Estimators with commas between (allround methods list --family estimate). Default: all that apply."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Training rows of each task that estimators look at.")] = 300,
    data_dir: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write the estimates here: a file ending in .csv or .parquet."),
    ] = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
) -> object:
    """Rank saved models, or the tasks of a suite, as starts for a new task, without training anything.

    The table has the place of each by all estimates together, and by each of them. It takes seconds for each model.
    """
    from allround.core.errors import AllroundError
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import check_out_file
    from allround.transfer.files import check_ending
    from allround.transfer.sources import sources as run

    quiet_libraries()
    if top < 1:
        raise AllroundError("rank starts", f"--top is {top}", "give 1 or more")
    if out is not None:
        check_ending(out, "write")
        check_out_file(out, "sources", force=force)
    named = None if estimators is None else methods_of(estimators, "--estimators")
    found = run(starts, new, base=base, estimators=named, rows=rows, seed=seed, data_dir=data_dir, only=task)
    found.print(top)
    if out is not None:
        found.save(out, "sources", force=force)
        typer.echo(f"\nestimates {out}")
    return found.to_json()
