"""The command tune."""

from __future__ import annotations

from typing import Annotated

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
    OutOption,
    SeedOption,
    SuiteArgument,
    TeacherOption,
    TrackOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, mitigated, more_rows, taught, training_options
from allround.cli.words import split
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround tune text8 trec --data-dir data --out models/trec --tune lora`")
@training_options(
    "epochs", "batch_size", "learning_rate", "patience", "precision", "tune", "lora_rank", "heads", "terms", "device"
)
def tune(
    suite: SuiteArgument,
    task: Annotated[str, typer.Argument(help="The task of the suite.")],
    out: OutOption,
    *,
    base: BaseOption = None,
    data_dir: DataOption = None,
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
    """Tune one specialist: fit the head on the frozen base, then tune the encoder."""
    from allround.building.single import tune as run

    loaded = load_suite(suite, data_dir, task, limit).weighed(class_weights, focal_gamma, agree)
    loaded = more_rows(loaded, mine, teacher, base, seed, encoder)
    settings = taught(mitigated(settings, mitigate), teacher)
    board = run(loaded, out=out, base=base, settings=settings, seed=seed, encoder=encoder, force=force,
                config=asked_for(), track=split(track, "--track"), calibrate=calibrate,
                demonstrations=demonstrations)  # fmt: skip
    board.print()
    typer.echo(f"\nmodel   {out}")
    return {"model": out, "scoreboard": board.to_json()}
