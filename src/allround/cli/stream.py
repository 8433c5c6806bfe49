"""The command stream."""

from __future__ import annotations

from typing import Annotated, Literal

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
    SuiteArgument,
    WorkersOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import methods_of
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(
    epilog="Example: `allround stream digits --task digit --labels 2 --strategies er,ewc,lwf --out runs/stream`"
)
@training_options("epochs", "batch_size", "learning_rate", "precision", "device")
def stream(
    suite: SuiteArgument,
    out: OutOption,
    *,
    base: BaseOption = None,
    strategies: Annotated[
        str,
        typer.Option(
            help="Strategies with commas between, with settings such as er:bytes=20000; see: allround methods list "
            "--family strategy. none, ridge and joint always stand beside them."
        ),
    ] = "er,ewc,lwf",
    task: Annotated[
        str | None, typer.Option(help="The task that comes in parts. Default: the tasks of the suite come one by one.")
    ] = None,
    labels: Annotated[int | None, typer.Option(help="So many labels of the task come at a time.")] = None,
    permuted: Annotated[
        int | None, typer.Option(help="So many times the task comes, its images shuffled in another way each time.")
    ] = None,
    rotated: Annotated[
        int | None, typer.Option(help="So many times the task comes, its images turned further each time.")
    ] = None,
    scenario: Annotated[
        Literal["task", "domain", "class", "free"] | None,
        typer.Option(
            help="What is known of a row at test time, with --labels. task: the arrival that it belongs to; domain: "
            "nothing, the labels are 'first', 'second' of any arrival; class: nothing, all labels compete; free: as "
            "class, and a strategy is not told where an arrival ends. Default: class."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each strategy.")] = 1,
    orders: Annotated[int, typer.Option(help="Orders of the arrivals; the first is that of the data.")] = 1,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Compare strategies that learn tasks one after another, or one task in parts, and say what each forgets.

    A strategy sees past rows through its own memory alone, whose bytes stand in the table. Killed and run again, it
    goes on after the last arrival.
    """
    from allround.building.stream import stream as run
    from allround.continual.report import print_results

    loaded = load_suite(suite, data_dir, only, limit)
    found = run(loaded, out=out, strategies=methods_of(strategies, "--strategies"), task=task, scenario=scenario,
                labels=labels, permute=permuted, rotate=rotated, seeds=seeds, orders=orders, base=base,
                settings=settings, encoder=encoder, workers=workers, config=asked_for(), force=force)  # fmt: skip
    print_results(found)
    typer.echo(f"\npage      {out}/stream.html\ntable     {out}/stream.md\nnumbers   {out}/stream.json")
    return None
