"""The command train."""

from __future__ import annotations

import typer

from allround.cli.config import asked_for
from allround.cli.help import PLAIN
from allround.cli.options import (
    AgreeOption,
    BaseOption,
    CalibrateOption,
    ClassWeightsOption,
    DataOption,
    DemonstrationsOption,
    FocalOption,
    ForceOption,
    LimitOption,
    MineOption,
    MitigateOption,
    OnlyOption,
    OutOption,
    SeedOption,
    SuiteArgument,
    TeacherOption,
    TrackOption,
    load_suite,
)
from allround.cli.training_options import ALL, EncoderSettings, mitigated, more_rows, taught, training_options
from allround.cli.words import split
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround train text8 --data-dir data --out runs/joint --mix all --balance uw`")
@training_options(*ALL)
def train(
    suite: SuiteArgument,
    out: OutOption,
    *,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    track: TrackOption = None,
    class_weights: ClassWeightsOption = None,
    focal_gamma: FocalOption = None,
    agree: AgreeOption = None,
    calibrate: CalibrateOption = "temperature",
    demonstrations: DemonstrationsOption = None,
    mitigate: MitigateOption = None,
    teacher: TeacherOption = None,
    mine: MineOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Train one joint model on all tasks of a suite, and score it.

    Started by `torchrun` or `accelerate launch` in several processes, each computes its share of every batch.
    """
    from allround.building.single import train as run
    from allround.training.processes import leave_group

    loaded = load_suite(suite, data_dir, only, limit).weighed(class_weights, focal_gamma, agree)
    loaded = more_rows(loaded, mine, teacher, base, seed, encoder)
    settings = taught(mitigated(settings, mitigate), teacher)
    board = run(loaded, out=out, base=base, settings=settings, seed=seed, encoder=encoder, force=force,
                config=asked_for(), track=split(track, "--track"), calibrate=calibrate,
                demonstrations=demonstrations)  # fmt: skip
    if leave_group():
        board.print()
        typer.echo(f"\nmodel   {out}")
        return {"model": out, "scoreboard": board.to_json()}
    raise typer.Exit
