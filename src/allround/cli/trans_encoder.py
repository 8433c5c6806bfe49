"""The command trans-encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import (
    DataOption,
    ForceOption,
    LimitOption,
    OutOption,
    SeedOption,
    WorkersOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import split
from allround.training.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from allround.building.trans_encoder import TransEncoded

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround trans-encoder pairs.jsonl --base all-MiniLM-L6-v2 --out models/alike`")
@training_options("precision", "device")
def trans_encoder(
    rows: Annotated[
        str,
        typer.Argument(
            metavar="PAIRS",
            help="A file with two columns of texts (CSV, TSV, JSONL, Parquet), or a suite with a task of pairs, whose "
            "labels are used for scores alone.",
        ),
    ],
    out: OutOption,
    *,
    base: Annotated[
        list[str] | None,
        typer.Option(
            help="A model of texts: a folder, a Hub id, or all-MiniLM-L6-v2. It may be repeated: all then learn the "
            "mean of their scores. Default: what the suite names."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task of the suite, or a name for that of a file.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="The two columns of a file that has more, with a comma between.")
    ] = None,
    cycles: Annotated[int, typer.Option(help="Cycles of two halves: a cross-encoder, then a bi-encoder.")] = 3,
    least: Annotated[
        float,
        typer.Option(
            help="How far a model must agree on held pairs with what it was to learn, before others learn from it: a "
            "rank correlation."
        ),
    ] = 0.95,
    held: Annotated[float, typer.Option(help="The share of a file's pairs that is held back.")] = 0.1,
    bi_epochs: Annotated[int | None, typer.Option(help="Epochs of a bi-encoder. Default: 10.")] = None,
    bi_rate: Annotated[float | None, typer.Option(help="Learning rate of a bi-encoder. Default: 5e-5.")] = None,
    bi_batch: Annotated[int | None, typer.Option(help="Pairs in a step of a bi-encoder. Default: 128.")] = None,
    cross_epochs: Annotated[
        int | None, typer.Option(help="Epochs of a cross-encoder. Default: 1, or as many as make 200 steps.")
    ] = None,
    cross_rate: Annotated[float | None, typer.Option(help="Learning rate of a cross-encoder. Default: 1e-4.")] = None,
    cross_batch: Annotated[
        int | None, typer.Option(help="Pairs in a step of a cross-encoder, of which each comes twice. Default: 32.")
    ] = None,
    data_dir: DataOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Tune a bi-encoder and a cross-encoder on pairs without labels: in turns, each learns the scores of the other.

    The models in OUT are ordinary ones: `bi` gives vectors, `cross` reads two texts as one. Killed and run again, it
    goes on with the half of a cycle that is not finished.
    """
    from allround.building.trans_encoder import BI_SETTINGS, CROSS_SETTINGS
    from allround.building.trans_encoder import trans_encoder as run
    from allround.core.progress import make_console
    from allround.tasks.sources.stream import FORMATS

    of_file = Path(rows).suffix.lower() in FORMATS
    made = run(
        rows if of_file else load_suite(rows, data_dir, None, limit), base=base or None, out=out, task=task,
        columns=split(columns, "--columns") or None, cycles=cycles, least=least, held=held, seed=seed, workers=workers,
        bi=_with(BI_SETTINGS, settings, bi_epochs, bi_rate, bi_batch),
        cross=_with(CROSS_SETTINGS, settings, cross_epochs, cross_rate, cross_batch),
        encoder=encoder, force=force,
    )  # fmt: skip
    console = make_console()
    console.print(halves_table(made))
    if made.test:
        console.print(scores_table(made))
    typer.echo("")
    for name, folder in made.folders.items():
        typer.echo(f"{name:8s}{folder}")
    return {"folders": made.folders, **made.to_json()}


def halves_table(made: TransEncoded) -> Table:
    """A row for each half of a cycle and base: agreement, and the score by labels where there are any."""
    from rich.table import Table

    from allround.core.words import shown

    several = len({half.base for half in made.halves}) > 1
    scored = bool(made.start)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cycle", "model", "agrees with its teachers", *(["validation"] if scored else []), "steps"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for index, score in enumerate(made.start):
        table.add_row("0", f"base {index + 1}" if several else "base", "", shown(score), "")
    for half in made.halves:
        name = f"{half.model} {half.base + 1}" if several else half.model
        table.add_row(str(half.cycle), name, f"{half.agreement:.3f}{'' if half.taken else ' (too little)'}",
                      *([shown(half.score or 0.0)] if scored else []), str(half.steps))  # fmt: skip
    return table


def scores_table(made: TransEncoded) -> Table:
    """The scores of all models by the labels of test rows, and how far each is above its base."""
    from rich.table import Table

    from allround.core.words import percent, shown, span_text

    table = Table(box=None, pad_edge=False, header_style="bold", title="on test", title_justify="left")
    for name in ("model", "rank correlation", "above its base"):
        table.add_column(name)
    for name, (value, low, high) in made.test.items():
        gain = made.gains.get(name)
        above = "" if gain is None else percent(gain.value, signed=True) + span_text(gain.low, gain.high, signed=True)
        table.add_row(name, shown(value) + span_text(low, high), above)
    return table


def _with(own: Settings, given: Settings, epochs: int | None, rate: float | None, batch: int | None) -> Settings:
    """The settings of a half, with what was asked for."""
    return own.with_(precision=given.precision, device=given.device, epochs=epochs, learning_rate=rate,
                     batch_size=batch)  # fmt: skip
