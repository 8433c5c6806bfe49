"""The command reduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import ForceOption, SeedOption
from allround.cli.words import methods_of, split
from allround.core.errors import AllroundError

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround reduce scores.csv --keep 3,5,10 --transfer transfer.csv`")
def reduce(
    scores: Annotated[
        str,
        typer.Argument(
            metavar="SCORES",
            help="Scores of three models or more: a run folder, or a table (CSV, TSV, JSON, JSONL) with the columns "
            "model, task, score and rows; or model, task, row and right; or model and one column for each task.",
        ),
    ],
    *,
    keep: Annotated[
        str | None, typer.Option(help="How many tasks to choose, with commas between. Default: up to half of them.")
    ] = None,
    ways: Annotated[
        str | None,
        typer.Option(
            help="Ways to choose, with commas between (allround methods list --family reduce). Default: all that the "
            "input allows."
        ),
    ] = None,
    complete: Annotated[
        str, typer.Option(help="How the whole is estimated from the chosen tasks (methods list --family complete).")
    ] = "mean,low_rank",
    transfer: Annotated[
        Path | None,
        typer.Option(help="Transfer between all tasks, as `allround relate` writes it (.csv or .parquet)."),
    ] = None,
    matrix: Annotated[str | None, typer.Option(help="The matrix of that file, where it has several.")] = None,
    rows: Annotated[int | None, typer.Option(help="Rows of each task, where the table does not say it.")] = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write JSON and Markdown here.")] = None,
    force: ForceOption = False,
) -> object:
    """Choose a few tasks that stand for a whole benchmark, and say how far off their score is.

    The error is that of models which were left out, beside tasks at random and rows at random of equal cost; a warning
    says where those are better.
    """
    from allround.core.outputs import check_texts, write_texts
    from allround.evaluation.model_scores import ModelScores
    from allround.transfer.completing import completion_errors
    from allround.transfer.files import read_matrices
    from allround.transfer.reducing import reduce_tasks
    from allround.transfer.reduction import FILES, Reduction

    if out is not None:
        check_texts(out, FILES, "reduce", force=force)
    table = ModelScores.read(scores, rows=rows)
    between = None
    if transfer is not None:
        found = read_matrices(transfer)
        if (matrix is None and len(found) > 1) or (matrix is not None and matrix not in found):
            raise AllroundError(f"choose tasks by {transfer}", f"it has the matrices {', '.join(found)}",
                                "name one of them by --matrix")  # fmt: skip
        between = found[matrix] if matrix is not None else next(iter(found.values()))
    named = None if ways is None else methods_of(ways, "--ways")
    counts = None if keep is None else [_count(text) for text in split(keep, "--keep") or ()]
    completions = split(complete, "--complete") or ()
    choices = reduce_tasks(table, counts=counts, ways=named, completions=completions, transfer=between, seed=seed)
    errors = completion_errors(table, completions, seed=seed)
    made = Reduction(len(table.tasks), len(table.models), choices, errors)
    made.print()
    if out is not None:
        write_texts(out, made.files(), "reduce", force=force)
        typer.echo(f"\nchoices  {out / 'reduce.md'}")
    return made.to_json()


def _count(text: str) -> int:
    if not text.isdigit():
        raise AllroundError(f"choose tasks: --keep {text}", "it is no number of tasks", "give numbers such as 3,5,10")
    return int(text)
