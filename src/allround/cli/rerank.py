"""The command rerank."""

from __future__ import annotations

from typing import Annotated

import typer

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
    load_suite,
)
from allround.cli.training_options import EncoderSettings, training_options
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(
    epilog="Example: `allround rerank search.yml --retriever models/find --base all-MiniLM-L6-v2 -o models/two`"
)
@training_options("epochs", "batch_size", "learning_rate", "patience", "precision", "heads", "device",
                  reading=("max_length", "instructions"))  # fmt: skip
def rerank(
    suite: SuiteArgument,
    out: OutOption,
    *,
    retriever: Annotated[str, typer.Option(help="The folder of a model that ranks passages.")],
    base: BaseOption = None,
    candidates: Annotated[int, typer.Option(help="Passages of a query that are put into a new order.")] = 20,
    negatives: Annotated[int, typer.Option(help="Candidates in training for each relevant passage.")] = 4,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Train a cross-encoder that re-ranks what a retriever finds, and save both as one system."""
    from allround.building.rerank import rerank as run

    loaded = load_suite(suite, data_dir, only, limit)
    board = run(loaded, retriever=retriever, out=out, base=base, candidates=candidates, negatives=negatives,
                settings=settings, seed=seed, encoder=encoder, force=force)  # fmt: skip
    board.print()
    typer.echo(f"\nmodel   {out}")
    return {"model": out, "scoreboard": board.to_json()}
