"""The command generative."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from allround.cli.help import PLAIN
from allround.cli.options import (
    DataOption,
    ForceOption,
    LimitOption,
    OnlyOption,
    OutOption,
    SeedOption,
    SuiteArgument,
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround generative search.yml --base smollm2-135m --tune lora --out models/ids`")
@training_options("epochs", "batch_size", "learning_rate", "patience", "precision", "tune", "lora_rank", "device",
                  reading=("max_length",))  # fmt: skip
def generative(
    suite: SuiteArgument,
    out: OutOption,
    *,
    base: Annotated[
        str | None,
        typer.Option(
            help="A language model: a model folder, a Hub id, or smollm2-135m. Default: what the suite names."
        ),
    ] = None,
    identifiers: Annotated[
        Literal["words", "semantic", "ngrams"] | None,
        typer.Option(
            help="The first words of a passage, codes of its vector, or all its runs of tokens. Default: codes with an "
            "embedder, else words.",
        ),
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="A text encoder whose vectors become codes. Needed for these alone.")
    ] = None,
    levels: Annotated[int, typer.Option(help="Codes of an identifier, beside the number that makes it unique.")] = 2,
    size: Annotated[int | None, typer.Option(help="Clusters of a level. Default: by the number of passages.")] = None,
    length: Annotated[
        int, typer.Option(help="Words of an n-gram that is learned, and the most tokens of one that is searched.")
    ] = 10,
    samples: Annotated[
        int, typer.Option(help="N-grams to learn for each query and relevant passage, and for each passage.")
    ] = 3,
    beams: Annotated[
        int, typer.Option(help="Beams of the search, and but for n-grams so many passages of an answer.")
    ] = 10,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Teach a language model to write the identifiers of the passages that answer a query."""
    from allround.building.generative import generative as run

    loaded = load_suite(suite, data_dir, only, limit)
    board = run(loaded, out=out, base=base, identifiers=identifiers, embedder=embedder, levels=levels, size=size,
                length=length, samples=samples, beams=beams, settings=settings, seed=seed, encoder=encoder,
                force=force)  # fmt: skip
    board.print()
    typer.echo(f"\nmodel   {out}")
    return {"model": out, "scoreboard": board.to_json()}
