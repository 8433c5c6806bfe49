"""The command export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DataOption, ForceOption, LimitOption, OutOption, SplitOption, load_suite
from allround.cli.words import split as parts_of

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround export runs/support/best suite.yml --int8 --out runs/support/onnx`")
def export(
    model: Annotated[Path, typer.Argument(help="A model with one encoder, as allround saved it.")],
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="Rows that both the model and its export answer.")
    ] = None,
    *,
    out: OutOption,
    tasks: Annotated[str | None, typer.Option(help="Tasks with commas between. Default: all of the model.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights as whole numbers of 8 bits.")] = False,
    split: SplitOption = "test",
    data_dir: DataOption = None,
    limit: LimitOption = None,
    force: ForceOption = False,
) -> object:
    """Export a model to ONNX: encoder and heads as graphs that onnxruntime runs, without torch where need be.

    The folder is a model as any other: predict, evaluate, compare and serve take it. With a suite, it is scored and
    timed beside the model.
    """
    from allround.building.export import export as run
    from allround.building.export import plain
    from allround.core.jobs import quiet_libraries
    from allround.evaluation.versions_report import print_versions

    quiet_libraries()
    rows = None if suite is None else load_suite(suite, data_dir, tasks, limit)
    found = run(model, out, rows, tasks=parts_of(tasks, "--tasks") or None, int8=int8, split=split, force=force)
    for line in found.lines():
        typer.echo(line)
    if found.versions is not None:
        print_versions(found.versions)
    return plain(found)
