"""The command predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import ForceOption, SavedArgument, WidthOption

app = typer.Typer(**PLAIN)


@app.command(epilog='Example: `allround predict runs/support/best --task trec "Who wrote Faust ?"`')
def predict(
    model: SavedArgument,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Inputs: texts (two for a pair), image files, or a row's columns; or - for standard input, a text a "
            "line."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="The task, or several, separated by commas. Default: all whose input columns are there; of a routed "
            "system the one that it finds for each row."
        ),
    ] = None,
    input_file: Annotated[
        str | None,
        typer.Option(
            "--input", help="A CSV, TSV, JSONL, Parquet or text file with the tasks' input columns, or - with --format."
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the input, where its ending does not say it: csv, tsv, jsonl, parquet, txt.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the rows with their answers here, as its ending says (.csv, .tsv, .jsonl, .parquet), instead "
            "of on the screen.",
        ),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Give the probability of each label too.")] = False,
    top: Annotated[int | None, typer.Option(help="Give so many labels with their probabilities.")] = None,
    sets: Annotated[
        bool, typer.Option("--sets", help="Give the set of labels, or the interval, that a build with --coverage made.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a row that cannot be answered, instead of leaving it empty.")
    ] = False,
    prefix: Annotated[str, typer.Option(help="What the names of the answers' columns begin with.")] = "",
    passages: Annotated[
        Path | None,
        typer.Option(
            help="Of tasks that rank passages: what all queries search, a JSONL, CSV, TSV or Parquet file, or a folder "
            "that `allround index` made."
        ),
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Option(help="What stands before the queries of a task that ranks passages, in place of its own words."),
    ] = None,
    width: WidthOption = None,
    reuse: Annotated[
        float | None,
        typer.Option(
            help="Rows are a stream: read one by one, and compute only what differs from the row before by more than "
            "this, such as 0.05. An answer then depends on the rows before it."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows that are answered together.")] = 64,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each row as a JSON object; with --output, what came of the rows.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Answer tasks for inputs given here, in a file or on standard input.

    A CSV file gives CSV, TSV TSV, JSONL JSONL and Parquet Parquet: every row in its order, with its other columns, and
    with a column for each task. A row with an empty or broken cell has an empty answer, and a note says why. Files may
    be larger than memory.
    """
    from allround.cli.inputs import answer_file, answer_screen
    from allround.cli.words import part_of_all, split
    from allround.models.prediction.answerer import Asking

    asking = Asking(
        tuple(split(task, "--task")) or None,
        scores,
        top,
        strict,
        prefix,
        batch_size,
        sets,
        find=task is None,
        instruction=instruction,
    )
    share = None if width is None else part_of_all(width, "--width")
    if output is not None:
        answer_file(model, inputs or [], input_file, format, output, asking, as_json=as_json, force=force,
                    passages=passages, width=share, reuse=reuse)  # fmt: skip
    else:
        answer_screen(model, inputs or [], input_file, format, asking, as_json=as_json, passages=passages, width=share,
                      reuse=reuse)  # fmt: skip
