"""The command compare-training."""

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
    RayOption,
    SeedOption,
    ShareOption,
    SuiteArgument,
    TrackOption,
    WorkersOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import methods_of, split
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround compare-training text8 --data-dir data --methods uw,cagrad:c=0.2 -o runs/cmp`")
@training_options(
    "epochs",
    "batch_size",
    "learning_rate",
    "precision",
    "tune",
    "lora_rank",
    "heads",
    "sample",
    "mix",
    "raw_scale",
    "device",
    helps={"learning_rate": "Learning rate that the others are tried around. Default: the encoder's."},
    defaults={"mix": "all"},
)
def compare_training(
    suite: SuiteArgument,
    out: OutOption,
    *,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Balancers with commas between, with settings such as cagrad:c=0.2;flat=0.05, and tuned: the "
            "best fixed weights of the sweep. equal is always among them. Default: one of each sort."
        ),
    ] = None,
    share: ShareOption = None,
    added: Annotated[
        int | None,
        typer.Option(
            "--added-parameters",
            help="About so many parameters that each way to share adds; the size of its modules is chosen to fit.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds everything is trained with.")] = 3,
    trials: Annotated[
        int, typer.Option(help="Learning rates tried on validation, for each method and each specialist.")
    ] = 3,
    sweep: Annotated[int, typer.Option(help="Fixed weights tried on validation; 0: no sweep.")] = 6,
    base: BaseOption = None,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    ray: RayOption = None,
    track: TrackOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Compare ways of joint training with each other and with specialists, fairly, over several seeds.

    Every method gets the same examples and as many learning rates to choose from on validation; fixed weights get a
    sweep. Test is scored once for each finished model; differences come with intervals over seeds and rows, and a
    verdict in words. Killed and run again, it goes on from what is finished.
    """
    from allround.building.compare import METHODS
    from allround.building.compare import compare_training as run

    loaded = load_suite(suite, data_dir, only, limit)
    named = methods_of(methods) if methods is not None else METHODS
    ways = methods_of(share, "--share") if share is not None else ()
    made = run(loaded, out=out, methods=named, share=ways, added=added, seeds=seeds, trials=trials,
               sweep=sweep, seed=seed, base=base, settings=settings, encoder=encoder, workers=workers, ray=ray,
               config=asked_for(), track=split(track, "--track"), force=force)  # fmt: skip
    made.print()
    typer.echo(f"\npage     {out}/comparison.html\nfigure   {out}/comparison.svg\nnumbers  {out}/comparison.json")
    return made.to_json()
