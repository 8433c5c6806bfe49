"""The command add-task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.config import asked_for
from allround.cli.help import PLAIN
from allround.cli.options import (
    DataOption,
    ForceOption,
    LimitOption,
    OnlyOption,
    OutOption,
    SavedArgument,
    SeedOption,
    WorkersOption,
    load_suite,
)
from allround.cli.screen import give
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import methods_of, part_of_all
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround add-task runs/support/best new.yml --old suite.yml --out runs/support-2`")
@training_options("tune", "lora_rank", "epochs", "batch_size", "learning_rate", "precision", "device")
def add_task(
    model: SavedArgument,
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="A suite file with the new task; --only names one of several.")
    ],
    out: OutOption,
    *,
    old: Annotated[
        str | None,
        typer.Option(
            help="The suite of the tasks that the model knows. Without it, rows that an earlier add-task remembered "
            "are used, or only ways are tried that cannot change old answers."
        ),
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option(help="Rows that an earlier add-task remembered. Default: the folder 'memory' beside the model."),
    ] = None,
    ways: Annotated[
        str | None,
        typer.Option(
            help="Ways to try, the cheapest first: strategies with commas between, with settings such as "
            "er:bytes=20000 (`allround methods list --family strategy`). Default: "
            "head_only,residual,merge,er,lwf,joint."
        ),
    ] = None,
    try_all: Annotated[
        bool, typer.Option("--try-all", help="Try all ways, though an earlier one is good enough.")
    ] = False,
    keep: Annotated[str, typer.Option(help="The share of its score that each old task must keep.")] = "0.98",
    max_flips: Annotated[
        str, typer.Option(help="The share of an old task's rows that may turn from right to wrong.")
    ] = "2%",
    reach: Annotated[
        str, typer.Option(help="The share of its specialist's score from which the new task is good enough.")
    ] = "0.98",
    budget: Annotated[float | None, typer.Option(help="Minutes, after which no further way is begun.")] = None,
    flip_floor: Annotated[
        bool,
        typer.Option(
            "--flip-floor",
            help="Measure how many answers two seeds of 'joint' give differently, and allow as many flips.",
        ),
    ] = False,
    memory_bytes: Annotated[
        int, typer.Option(help="Bytes of rows that are remembered for the next task; 0 keeps none.")
    ] = 1_000_000,
    base: Annotated[
        str | None,
        typer.Option(
            help="What the specialist, and ways that start anew, begin from. Default: the model's own encoder."
        ),
    ] = None,
    seed: SeedOption = 0,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = None,
    write_anyway: Annotated[
        bool,
        typer.Option("--write-anyway", help="Write the best way where none passes the gate; the exit code stays 3."),
    ] = False,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Add a task to a finished model, and prove that the tasks it knows are answered as well as before.

    Ways are tried from the cheapest on, until one keeps the old tasks and is as good as a specialist. Exit code 0: a
    way passed, and the model is in OUT/best. 3: none passed, and nothing was written.
    """
    from allround.building.add_task import add_task as run
    from allround.building.adding import WAYS, AddOptions
    from allround.continual.addition_report import plain, print_addition
    from allround.tasks.suite import Suite

    options = AddOptions(
        ways=tuple(methods_of(ways, "--ways")) if ways is not None else WAYS, try_all=try_all,
        keep=part_of_all(keep, "--keep"), max_flips=part_of_all(max_flips, "--max-flips"),
        reach=part_of_all(reach, "--reach"),
        budget=budget, flip_floor=flip_floor, memory_bytes=memory_bytes, write_anyway=write_anyway, seed=seed,
    )  # fmt: skip
    added = load_suite(new, data_dir, only, limit)
    known: Suite | None = None if old is None else load_suite(old, data_dir, None, limit)
    found = run(model, added, out=out, old=known, options=options, memory=memory, base=base, settings=settings,
                encoder=encoder, workers=workers, config=asked_for(), force=force)  # fmt: skip
    print_addition(found)
    if found.written is not None:
        typer.echo(f"\nmodel     {out}/best")
    typer.echo(f"report    {out}/add-task.html\nnumbers   {out}/add-task.json")
    if not found.passed:
        give(plain(found))
        raise typer.Exit(3)
    return plain(found)
