"""The command compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import (
    DataOption,
    DeviceOption,
    ForceOption,
    LimitOption,
    MaxDropOption,
    MaxFlipsOption,
    MeasureOption,
    NoWorseOption,
    OnlyOption,
    SplitOption,
    load_suite,
)
from allround.cli.screen import give
from allround.cli.words import part_of_all

app = typer.Typer(**PLAIN)

Version = typer.Argument(help="A folder that allround saved, a run folder of a build, or predictions (Parquet).")


@app.command(epilog="Example: `allround compare runs/old/best runs/new/best suite.yml --max-flips 2%`")
def compare(
    old: Annotated[str, Version],
    new: Annotated[str, Version],
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="The rows that models answer; needed for saved models.")
    ] = None,
    *,
    max_flips: MaxFlipsOption = None,
    max_drop: MaxDropOption = None,
    no_worse_task: NoWorseOption = False,
    baseline_flips: Annotated[
        str | None,
        typer.Option(
            help="A version that is meant to be as the old one, such as another seed: what turns between these "
            "two may turn in any case."
        ),
    ] = None,
    measure: MeasureOption = None,
    split: SplitOption = "test",
    data_dir: DataOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write JSON, Markdown and the new errors here.")
    ] = None,
    force: ForceOption = False,
) -> object:
    """Compare a new version of a model with the old one, task by task and row by row.

    Exit code 0: it passes the gates that were asked for. 3: it does not.
    """
    from allround.building.compare_versions import compare_versions
    from allround.core.jobs import quiet_libraries
    from allround.evaluation.versions_report import plain, print_versions

    quiet_libraries()
    rows = None if suite is None else load_suite(suite, data_dir, only, limit)
    found = compare_versions(
        old, new, rows, split=split, max_flips=None if max_flips is None else part_of_all(max_flips, "--max-flips"),
        max_drop=max_drop, no_worse_task=no_worse_task, baseline=baseline_flips,
        measures=measure or (), out=out, device=device or "cpu",
        force=force,
    )  # fmt: skip
    print_versions(found)
    if out is not None:
        typer.echo(f"\nfor a pull request  {out / 'compare.md'}\nnew errors          {out / 'new-errors.jsonl'}")
    if not found.passed:
        give(plain(found))
        raise typer.Exit(3)
    return plain(found)
