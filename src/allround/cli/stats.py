"""The stats command: a statistic of a model's data, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from allround.core.errors import AllroundError


def stats_command(
    model: str,
    suite: str,
    kind: str,
    out: Path,
    *,
    data_dir: Path | None,
    only: Sequence[str] | None,
    limit: dict[str, int] | None,
    rows: int,
    split: str,
    labels: str,
    seed: int,
    device: str,
    force: bool,
) -> None:
    """Compute a statistic as the command line says, and say what was written.

    only: the tasks; None: those that the model has a head for, and of an encoder alone all of the suite.
    """
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import check_out_file
    from allround.merging.statistics.collect import collect
    from allround.merging.statistics.measure import entry_of
    from allround.models.model import read_definitions
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
    if only is None and (Path(model) / "allround.json").is_file():
        only = list(read_definitions(Path(model))[0])
    tasks = list(Suite.load(suite, data_dir=data_dir, only=only, limit=limit).tasks.values())
    made = collect(model, tasks, kind, out, rows=rows, split=split, labels=labels, seed=seed, device=device,
                   force=force)  # fmt: skip
    names = ", ".join(task.name for task in tasks)
    typer.echo(f"{kind} of {made.tensors} weights from {made.rows} rows ({split}) of {names}")
    if made.left_out:
        which = f"{len(made.left_out)} of the network's weights, such as {made.left_out[0]}"
        typer.echo(f"note: {which}, are in no file of the model and were left out", err=True)
    typer.echo(f"\nstatistic  {out}")
