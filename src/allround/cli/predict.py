"""The command predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import ForceOption, SavedArgument

app = typer.Typer(**PLAIN)


@app.command(epilog='Example: `allround predict runs/support/best --task trec "Who wrote Faust ?"`')
def predict(
    model: SavedArgument,
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Inputs: texts (two for a pair), image files, or a row's columns.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task. May be left out when the model has only one.")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="A JSONL, CSV, TSV or Parquet file with the task's input columns.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write answers here as JSONL instead of on the screen.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as a JSON object.")] = False,
    force: ForceOption = False,
) -> None:
    """Answer a task for inputs given here or in a file."""
    from allround.cli.inputs import answers
    from allround.core.outputs import check_out_file, output_file

    if output is not None:
        check_out_file(output, "predict", force=force, inputs=[input_file])
    found = answers(model, task, inputs or [], input_file)
    if output is not None:
        with output_file(output, "predict", force=force) as new:
            new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), "utf-8")
        typer.echo(f"{len(found)} answers written to {output}")
        return
    for row in found:
        if as_json or input_file is not None:
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            sure = f"  ({100 * row['confidence']:.1f}%)" if row.get("confidence") is not None else ""
            answer = row["prediction"]
            answer = f"{answer:.4g}" if isinstance(answer, float) else answer
            answer = " ".join(answer) if isinstance(answer, list) else answer
            typer.echo(f"{answer}{sure}")
