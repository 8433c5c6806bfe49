"""The command queries."""

from __future__ import annotations

from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DataOption, ForceOption, LimitOption, OutOption, SeedOption, SuiteArgument, load_suite
from allround.cli.training_options import EncoderSettings, training_options
from allround.cli.words import split
from allround.core.errors import AllroundError
from allround.training.settings import Settings

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround queries search.yml --base smollm2-135m --retriever all-MiniLM-L6-v2 -o made`")
@training_options("epochs", "batch_size", "learning_rate", "patience", "precision", "device")
def queries(
    suite: SuiteArgument,
    task: Annotated[
        str | None, typer.Argument(help="A task of the kind retrieval. Default: the only one there is.")
    ] = None,
    *,
    out: OutOption,
    base: Annotated[str, typer.Option(help="A language model: a model folder, a Hub id, or smollm2-135m.")],
    examples: Annotated[int, typer.Option(help="Training rows that stand before each passage as examples.")] = 8,
    per_passage: Annotated[int, typer.Option(help="Queries that are drawn for a passage.")] = 4,
    most: Annotated[int | None, typer.Option(help="Passages, drawn at random. Default: all.")] = None,
    temperature: Annotated[float, typer.Option(help="The higher, the more the queries of a passage differ.")] = 0.7,
    words: Annotated[
        str, typer.Option(help="What a passage and a query are called in the prompt, with a comma between.")
    ] = "Passage,Query",
    retriever: Annotated[
        str | None,
        typer.Option(help="A base, or the folder of a saved model: a query stays only if this finds its passage."),
    ] = None,
    top: Annotated[int, typer.Option(help="With --retriever: among the first so many of all passages.")] = 1,
    train_retriever: Annotated[
        bool, typer.Option("--train-retriever", help="Train the retriever on all queries before it filters them.")
    ] = False,
    data_dir: DataOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    settings: Settings,
    encoder: EncoderSettings,
    force: ForceOption = False,
) -> object:
    """Write training rows for a search: a language model makes queries for its passages, behind a few examples."""
    from allround.building.queries import QUERIES
    from allround.building.queries import queries as run

    passage, *query = split(words, "--words")
    if len(query) != 1:
        raise AllroundError(
            f"read --words {words!r}", "it does not name two things", "write such as 'Article,Question'"
        )
    made = run(load_suite(suite, data_dir, None, limit), task, base=base, out=out, examples=examples,
               per_passage=per_passage, most=most, temperature=temperature, words=(passage, query[0]),
               retriever=retriever, top=top, train_retriever=train_retriever, settings=settings, seed=seed,
               encoder=encoder, force=force)  # fmt: skip
    typer.echo(f"\nqueries {out / QUERIES}")
    return {"queries": out / QUERIES, "rows": len(made), "dropped": made.reasons}
