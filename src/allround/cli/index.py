"""The command index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DeviceOption, ForceOption, OutOption, SavedArgument, SeedOption

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround index runs/help/best pages.jsonl --task find_page --out indexes/pages`")
def index(
    model: SavedArgument,
    passages: Annotated[Path, typer.Argument(help="A JSONL, CSV, TSV or Parquet file of passages.")],
    *,
    out: OutOption,
    task: Annotated[
        str | None, typer.Option(help="The task that searches them. Default: the only one that ranks passages.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How it is searched, with settings such as faiss:factory=HNSW32 (`allround methods list --family "
            "index`)."
        ),
    ] = "exact",
    batch_size: Annotated[int, typer.Option(help="Passages that are encoded together.")] = 64,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    force: ForceOption = False,
) -> object:
    """Encode passages once, into a folder that `predict --passages` and `serve --passages` search.

    An exact index compares a query with every passage; faiss and hnswlib take less time and miss some passages. The
    share that they find is measured and shown.
    """
    from allround.building.index import index as run
    from allround.building.index import plain
    from allround.core.jobs import quiet_libraries
    from allround.core.registry import spelled

    quiet_libraries()
    name, settings = spelled("index", method)
    found = run(model, passages, out, task=task, method=name, settings=settings, batch_size=batch_size, seed=seed,
                device=device or "cpu", force=force)  # fmt: skip
    for line in found.lines():
        typer.echo(line)
    return plain(found)
