"""The command serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import (
    DataOption,
    DeviceOption,
    LimitOption,
    MaxDropOption,
    MaxFlipsOption,
    NoWorseOption,
    OnlyOption,
    SplitOption,
    load_suite,
)
from allround.cli.words import part_of_all

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround serve runs/support/best --port 8000`")
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Folders that allround saved, or NAME=FOLDER. The first answers where a request names no model.",
        ),
    ],
    *,
    host: Annotated[str, typer.Option(help="The address to serve at; 0.0.0.0 is every one of this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="The port; 0 takes one that is free.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(help="A file of API keys, one a line. The variable ALLROUND_API_KEYS may hold some, with commas."),
    ] = None,
    deadline: Annotated[float, typer.Option(help="Seconds until a request is given up.")] = 30.0,
    queue: Annotated[int, typer.Option(help="Most requests that wait; further ones are refused.")] = 512,
    batch_rows: Annotated[int, typer.Option(help="Most rows that are answered together.")] = 64,
    batch_tokens: Annotated[int, typer.Option(help="About how many tokens are answered together.")] = 4096,
    shadow: Annotated[
        Path | None, typer.Option(help="A new version that answers what the first model is asked, and is not heard.")
    ] = None,
    shadow_file: Annotated[
        Path, typer.Option(help="Where answers that the shadow gives otherwise are recorded, with their inputs.")
    ] = Path("shadow.jsonl"),
    passages: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="What queries of the first model search, as `allround index` wrote it, or NAME=FOLDER for another "
            "model; may be repeated.",
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Rows on which a version to reload is compared with the present one.")
    ] = None,
    max_flips: MaxFlipsOption = None,
    max_drop: MaxDropOption = None,
    no_worse_task: NoWorseOption = False,
    split: SplitOption = "test",
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    device: DeviceOption = None,
) -> None:
    """Serve models over HTTP: all tasks from one pass, a page to try them, and counters.

    Stops at Ctrl-C or SIGTERM, when every request that came is answered. SIGHUP reads the folders again; with --suite
    the present version stays where the new one does not pass the gates.
    """
    from allround.core.jobs import quiet_libraries
    from allround.evaluation.versions import Gates
    from allround.serving.engine import Limits
    from allround.serving.serve import check_packages
    from allround.serving.serve import serve as run
    from allround.serving.served import named_folders, named_indexes

    check_packages()
    quiet_libraries()
    flips = None if max_flips is None else part_of_all(max_flips, "--max-flips")
    folders = named_folders(models)
    run(
        folders, host=host, port=port, keys=keys, deadline=deadline,
        limits=Limits(rows=batch_rows, tokens=batch_tokens, queue=queue), shadow=shadow, shadow_file=shadow_file,
        suite=None if suite is None else load_suite(suite, data_dir, only, limit),
        gates=Gates(flips, max_drop, no_worse_task), split=split,
        indexes=named_indexes(passages or [], folders), device=device or "cpu", say=typer.echo,
    )  # fmt: skip
