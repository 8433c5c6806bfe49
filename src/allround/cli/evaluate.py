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
    SavedArgument,
    SplitOption,
    SuiteArgument,
    load_suite,
)

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround evaluate runs/support/best suite.yml`")
def evaluate(
    model: SavedArgument,
    suite: SuiteArgument,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    split: SplitOption = "test",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write scoreboard and predictions here.")] = None,
    force: ForceOption = False,
) -> object:
    """Score a saved model on the tasks of a suite, with intervals, beside the floor."""
    from allround.building.single import evaluate as run

    board = run(model, load_suite(suite, data_dir, only, limit), split=split, out=out, force=force)
    board.print()
    return board.to_json()
