"""The command stats: a statistic of a model's data, as a file."""

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
    SeedOption,
    SplitOption,
    SuiteArgument,
)
from allround.cli.words import pairs_of
from allround.cli.words import split as split_words
from allround.core.errors import AllroundError

app = typer.Typer(**PLAIN)


@app.command(
    epilog="Example: `allround stats models/trec text8 --data-dir data --kind gram -o models/trec.gram.safetensors`"
)
def stats(
    model: Annotated[str, typer.Argument(help="A folder that allround saved, or an encoder alone.")],
    suite: SuiteArgument,
    kind: Annotated[
        str, typer.Option(help="gram, fisher, kfac or activations; see: allround methods list --family statistic.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file (.safetensors).")],
    data_dir: DataOption = None,
    only: Annotated[
        str | None, typer.Option(help="Only these tasks, separated by commas. Default: those the model has heads for.")
    ] = None,
    limit: LimitOption = None,
    rows: Annotated[int, typer.Option(help="Most rows of each task, drawn by the seed.")] = 256,
    split: SplitOption = "train",
    labels: Annotated[
        str, typer.Option(help="Whose labels gradients are taken for: given, or the model's own predictions.")
    ] = "given",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> object:
    """Compute a statistic of a model's data for merges that need one, such as regmean, fisher and mats.

    It is computed once, on a few rows, and stored; a merge takes it by `--statistics KIND=FILE,FILE,...`.
    """
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import check_out_file
    from allround.merging.statistics.collect import collect
    from allround.merging.statistics.measure import entry_of
    from allround.models.manifest import read_manifest
    from allround.tasks.suite import Suite

    quiet_libraries()
    entry_of(kind)
    if out.is_dir() or out.suffix != ".safetensors":
        raise AllroundError(
            f"write statistics to {out}",
            "it is a folder" if out.is_dir() else "its name does not end in .safetensors",
            f"give the name of a file, such as -o {kind}.safetensors",
        )
    check_out_file(out, "stats", force=force)
    named = split_words(only, "--only") or None
    if named is None and (Path(model) / "allround.json").is_file():
        named = list(read_manifest(Path(model))[1])
    tasks = list(
        Suite.load(suite, data_dir=data_dir, only=named, limit=pairs_of(limit, "--limit", int) or None).tasks.values()
    )
    made = collect(model, tasks, kind, out, rows=rows, split=split, labels=labels, seed=seed, device=device or "cpu",
                   force=force)  # fmt: skip
    names = ", ".join(task.name for task in tasks)
    typer.echo(f"{kind} of {made.tensors} weights from {made.rows} rows ({split}) of {names}")
    if made.left_out:
        which = f"{len(made.left_out)} of the network's weights, such as {made.left_out[0]}"
        typer.echo(f"note: {which}, are in no file of the model and were left out", err=True)
    typer.echo(f"\nstatistic  {out}")
    return {"statistic": out, "kind": kind, "tensors": made.tensors, "rows": made.rows, "left_out": list(made.left_out)}
