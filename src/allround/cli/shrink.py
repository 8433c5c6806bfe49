"""The command shrink."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    SuiteArgument,
    WorkersOption,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import methods_of, part_of_all, split
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround shrink runs/support/best suite.yml --to 75%,50%,25% --out runs/small`")
@training_options(
    "epochs", "batch_size", "learning_rate", "precision", "device",
    helps={"epochs": "Passes over the training rows. Default: three times the encoder's."},
)  # fmt: skip
def shrink(
    model: SavedArgument,
    suite: SuiteArgument,
    out: OutOption,
    *,
    to: Annotated[
        str | None,
        typer.Option(
            help="Sizes with commas between, as shares of the encoder's work for a row (multiply-adds). Default: 50%."
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(help="Instead: what a row that is asked alone may take on this machine, such as 5ms."),
    ] = None,
    ways: Annotated[
        str | None,
        typer.Option(
            help="Ways to choose what is removed, with commas between, with settings such as layers:which=greedy "
            "(`allround methods list --family shrink`). Default: both, layers and units, as far as they fit."
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            help="Of several sizes, the smallest is written that keeps this share of the original's validation scores."
        ),
    ] = "97%",
    specialist: Annotated[
        list[Path] | None,
        typer.Option(help="A model that teaches the tasks that it knows, in place of MODEL; may be repeated."),
    ] = None,
    distil: Annotated[
        str | None,
        typer.Option(
            help="Settings of the term distillation, such as 'anneal=true;temperature=4'; none trains on labels alone."
        ),
    ] = None,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            help="Further training rows that the teacher answers: FILE (CSV, TSV, JSONL, Parquet, text, or a folder of "
            "images) for all tasks, or TASK=FILE, which may be repeated."
        ),
    ] = None,
    seed: SeedOption = 0,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    workers: WorkersOption = None,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Make a finished model smaller: remove layers, units or channels, and teach what is left by the original.

    The model in OUT/best is a folder as any other. The report has what each task keeps, beside work, milliseconds,
    parameters and bytes.
    """
    from allround.building.shrink import shrink as run
    from allround.building.shrinking import ShrinkOptions
    from allround.core.errors import AllroundError
    from allround.evaluation.smaller.report import plain, print_shrunk

    if to is not None and latency is not None:
        raise AllroundError("shrink a model", "--to and --latency are both given", "give one of them")
    if encoder:
        raise AllroundError(f"shrink with {', '.join(encoder)}", "the smaller model reads rows as the original does",
                            "leave these options out")  # fmt: skip
    loaded = load_suite(suite, data_dir, only, limit)
    options = ShrinkOptions(
        to=tuple(part_of_all(text, "--to") for text in split(to, "--to")) or (0.5,),
        latency=None if latency is None else milliseconds(latency),
        ways=tuple(methods_of(ways, "--ways")) if ways is not None else (),
        keep=part_of_all(keep, "--keep"),
        specialists=tuple(specialist or ()),
        distil=None if distil in (None, "none") else distillation(str(distil)),
        distilled=distil != "none",
        unlabelled=unlabelled_files(unlabelled or (), loaded.tasks),
        seed=seed,
    )
    found = run(model, loaded, out=out, options=options, settings=settings,
                workers=workers, config=asked_for(), force=force)  # fmt: skip
    print_shrunk(found)
    typer.echo(f"\nmodel     {out}/best\nreport    {out}/shrink.html\nnumbers   {out}/shrink.json")
    return plain(found)


def milliseconds(text: str) -> float:
    """A time of a row.

    >>> milliseconds("5ms"), milliseconds("0.5")
    (5.0, 0.5)
    """
    from allround.core.errors import AllroundError

    try:
        return float(text.strip().removesuffix("ms"))
    except ValueError:
        raise AllroundError(f"read --latency {text!r}", "it is not a time", "give milliseconds, such as 5ms") from None


def unlabelled_files(given: Sequence[str], tasks: Collection[str]) -> str | dict[str, str] | None:
    """Files of unlabelled rows: one for all tasks, or by task.

    >>> unlabelled_files(["more.csv"], ["a"]), unlabelled_files(["a=x.csv", "b=y=z.csv"], ["a", "b"])
    ('more.csv', {'a': 'x.csv', 'b': 'y=z.csv'})
    """
    from allround.core.errors import AllroundError

    parted = [text.partition("=") for text in given]
    found = {task: file for task, equals, file in parted if equals and task in tasks}
    if not given or len(found) == len(given):
        return found or None
    if len(given) == 1:
        return given[0]
    raise AllroundError(f"read --unlabelled {' --unlabelled '.join(given)}",
                        "there are several files, and not each has a task of its own",
                        f"give TASK=FILE with tasks of the suite: {', '.join(tasks)}")  # fmt: skip


def distillation(text: str) -> dict[str, object]:
    """Settings of the term distillation.

    >>> distillation("anneal=true;temperature=4")
    {'anneal': True, 'temperature': 4}
    """
    from allround.core.errors import AllroundError
    from allround.core.registry import spelled

    values = spelled("term", f"distillation:teacher=model;{text}")[1]
    del values["teacher"]
    for name in ("teacher", "taught"):
        if name in values:
            raise AllroundError(f"read --distil {text!r}", f"'{name}' is set by the command",
                                "leave it out; --specialist names specialists")  # fmt: skip
    return values
