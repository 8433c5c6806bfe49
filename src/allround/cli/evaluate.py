"""The command evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import (
    DataOption,
    ForceOption,
    LimitOption,
    OnlyOption,
    SplitOption,
    SuiteArgument,
    load_suite,
)

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround evaluate runs/support/best suite.yml`")
def evaluate(
    model: Annotated[str, typer.Argument(help="A folder that allround saved, or a folder or Hub id of transformers.")],
    suite: SuiteArgument,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    split: SplitOption = "test",
    fit_heads: Annotated[
        bool,
        typer.Option("--fit-heads", help="Fit heads on training rows for tasks that the model has none for."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write scoreboard and predictions here.")] = None,
    errors: Annotated[
        Path | None,
        typer.Option(help="Also write what the model gets wrong into this folder: confusions, labels, worst rows."),
    ] = None,
    force: ForceOption = False,
) -> object:
    """Score a saved model on the tasks of a suite, with intervals, beside the floor.

    A classifier of transformers, or an adapter of PEFT with its head, serves the tasks whose labels it has; other
    folders and Hub ids of transformers and sentence-transformers get heads by --fit-heads.
    """
    from allround.building.single import evaluate as run
    from allround.core.progress import Progress

    board = run(model, load_suite(suite, data_dir, only, limit), split=split, fit_heads=fit_heads, out=out,
                errors=errors, progress=Progress(), force=force)  # fmt: skip
    board.print()
    return board.to_json()
