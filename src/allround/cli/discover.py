"""The command discover."""

from __future__ import annotations

from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DataOption, LimitOption, SuiteArgument, load_suite
from allround.cli.words import methods_of, split

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround discover suite.yml --task species --hide lynx,otter`")
def discover(
    suite: SuiteArgument,
    *,
    task: Annotated[str, typer.Option(help="The task, one of the suite's that has labels.")],
    hide: Annotated[str, typer.Option(help="Labels that are hidden, with commas between.")],
    ways: Annotated[
        str | None,
        typer.Option(
            help="Ways with commas between, with settings such as pbn:weight=0.8; see: allround methods list --family "
            "discover. Default: all."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="How many classes to look for. Default: as many as are hidden.")
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Let each way say how many classes there are.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose settings by hiding known labels too; it takes long.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Seeds of each way.")] = 1,
    base: Annotated[
        str | None, typer.Option(help="An encoder whose vectors stand for the rows; rows of a table need none.")
    ] = None,
    data_dir: DataOption = None,
    limit: LimitOption = None,
) -> object:
    """Hide some labels of a task, find their classes among the rows again, and say how well each way does so.

    What does well here is worth a try on rows that nobody has labelled: `find_classes` in Python.
    """
    from allround.building.discover import discover as run
    from allround.core.jobs import quiet_libraries
    from allround.core.progress import Progress

    quiet_libraries()
    loaded = load_suite(suite, data_dir, task, limit)[task]
    chosen = () if ways is None else methods_of(ways, "--ways")
    found = run(loaded, split(hide, "--hide"), ways=chosen, count=count, estimate=estimate, tune=tune, seeds=seeds,
                base=base, progress=Progress())  # fmt: skip
    found.print()
    return found.to_json()
