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
    MeasureOption,
    OnlyOption,
    SplitOption,
    WidthOption,
    load_suite,
)
from allround.cli.words import pairs_of, part_of_all
from allround.cli.words import split as parts_of
from allround.core.errors import AllroundError

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround evaluate runs/support/best suite.yml`")
def evaluate(
    model: Annotated[str, typer.Argument(help="A folder that allround saved, or a folder or Hub id of transformers.")],
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="A suite file (YAML), or a built-in suite; or give --tasks.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks of the lm-evaluation-harness too, separated by commas: lm-eval:arc_easy, lm-eval:mine.yaml."
        ),
    ] = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    split: SplitOption = "test",
    fit_heads: Annotated[
        bool,
        typer.Option("--fit-heads", help="Fit heads on training rows for tasks that the model has none for."),
    ] = False,
    demonstrations: Annotated[
        str | None,
        typer.Option(
            help="Show a language model training rows of the suite before each question, chosen for it: NAME, or "
            "NAME:key=value;key=value, such as coverage:count=4 (`allround methods list --family demonstrations`)."
        ),
    ] = None,
    measure: MeasureOption = None,
    width: WidthOption = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Also save the model as it was scored, with its heads and demonstrations, into this folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write scoreboard and predictions here.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Answer only part of the rows, such as 500rows, 60s or 2min, and estimate the scores, with intervals."
        ),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            help="With --budget: an earlier version that answered all rows (its predictions, its run, or the model), "
            "so that only what changed has to be estimated."
        ),
    ] = None,
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
    from allround.building.benchmarks import with_benchmarks
    from allround.building.single import evaluate as run
    from allround.core.progress import Progress

    rows = pairs_of(limit, "--limit", int) or None
    own = load_suite(suite, data_dir, only, limit) if suite is not None else None
    asked = with_benchmarks(own, parts_of(tasks, "--tasks"), rows)
    if budget is not None:
        from allround.building.partial import evaluate_part, plain, print_part

        whole = {
            "--save": save,
            "--out": out,
            "--errors": errors,
            "--demonstrations": demonstrations,
            "--measure": measure or None,
            "--width": width,
        }
        found = evaluate_part(model, asked, budget, beside=beside, split=split, fit_heads=fit_heads,
                              others=[name for name, value in whole.items() if value is not None])  # fmt: skip
        print_part(found)
        return plain(found)
    if beside is not None:
        do = "give one, such as 500rows; to compare two versions on all rows: allround compare"
        raise AllroundError(f"evaluate {model} beside {beside}", "there is no --budget", do)
    share = None if width is None else part_of_all(width, "--width")
    board = run(model, asked, split=split, fit_heads=fit_heads, demonstrations=demonstrations, measures=measure or (),
                width=share, save=save, out=out, errors=errors, progress=Progress(), force=force)  # fmt: skip
    board.print()
    for line in (*board.notes.get("prompts", ()), *board.notes.get("measures", ())):
        typer.echo(line)
    return board.to_json()
