"""The command relate."""

from __future__ import annotations

from typing import Annotated

import typer

from allround.cli.config import asked_for
from allround.cli.help import PLAIN
from allround.cli.options import (
    BaseOption,
    DataOption,
    ForceOption,
    LimitOption,
    OnlyOption,
    OutOption,
    SeedOption,
    SuiteArgument,
    WorkersOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import methods_of
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround relate text8 --data-dir data --measure pairs --budget 60 --out runs/related`")
@training_options("epochs", "batch_size", "learning_rate", "precision", "tune", "lora_rank", "heads", "device")
def relate(
    suite: SuiteArgument,
    out: OutOption,
    *,
    base: BaseOption = None,
    estimators: Annotated[
        str | None,
        typer.Option(
            help="Estimators with commas between, with settings such as divergence:kind=coral; see: allround methods "
            "list --family estimate. Default: all whose needs are met."
        ),
    ] = None,
    specialists: Annotated[
        bool, typer.Option("--specialists", help="Tune a specialist for each task, and let estimators look at them.")
    ] = False,
    measure: Annotated[
        str | None,
        typer.Option(
            help="Measure by short trainings: pairs (tune on one task, then another), joint (two together), "
            "leave-one-out (all, and all but one) or subsets (random groups of half of them). Default: nothing."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Minutes for measuring, spent where they may change a choice. Default: measure all."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Training rows of each task that estimators look at.")] = 300,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Say which tasks help each other: by cheap estimates, and measured by short trainings where you ask for it.

    The page shows who helps whom, which tasks are closest to each other, and, where it was measured, how often each
    estimate was right. Killed and run again, it goes on from what is finished. Test rows are not looked at.
    """
    from allround.building.relate import relate as run

    loaded = load_suite(suite, data_dir, only, limit)
    named = None if estimators is None else methods_of(estimators, "--estimators")
    found = run(loaded, out=out, base=base, estimators=named, specialists=specialists, measure=measure, budget=budget,
                rows=rows, seed=seed, settings=settings, encoder=encoder, workers=workers, config=asked_for(),
                force=force)  # fmt: skip
    found.print()
    typer.echo(
        f"\npage      {out}/relations.html\nfigure    {out}/relations.svg\nmatrices  {out}/matrices.parquet, .csv"
    )
    return found.to_json()
