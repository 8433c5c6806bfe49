"""The command zip: models from different starts, zipped into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.align import load_models, print_matched
from allround.cli.help import PLAIN
from allround.cli.options import DataOption, ForceOption, LeaveOption, OutOption, RowsOption, load_suite
from allround.core.errors import AllroundError

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround zip models/a models/b --suite suite.yml --depth 0.5 -o models/ab`")
def zip_(
    models: Annotated[list[Path], typer.Argument(metavar="A B...", help="Models that allround saved.")],
    out: OutOption,
    suite: Annotated[str, typer.Option(help="The suite whose rows the models are compared on.")],
    depth: Annotated[
        str, typer.Option(help="What share of the layers becomes one (1: all), or the last layer that does.")
    ] = "1",
    rows: RowsOption = 256,
    alpha: Annotated[float, typer.Option(help="Below 1, features that were merged are merged again less readily.")] = (
        0.3
    ),
    beta: Annotated[float, typer.Option(help="Share of merges within one model; 0: none.")] = 0.125,
    by: Annotated[str, typer.Option(help="zip, permute or average.")] = "zip",
    leave: LeaveOption = None,
    data_dir: DataOption = None,
    force: ForceOption = False,
) -> object:
    """Zip models of different tasks and different starts into one, without training: wholly, or up to a depth.

    Features that are most alike are merged, across the models and within each. Zipped wholly it is a model like each
    of them; up to a depth it has one trunk and a tail for each.
    """
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import output_folder
    from allround.merging.align.models import batches_from, zip_models
    from allround.merging.align.zipping import mixed

    quiet_libraries()
    if len(models) < 2:
        raise AllroundError("zip models", f"{len(models)} given", "give two or more")
    loaded = load_suite(suite, data_dir)
    with output_folder(out, "zip", force=force, inputs=models) as new:
        opened = load_models(models)
        batches = batches_from(opened, loaded, rows=rows)
        made = zip_models(opened, batches, depth=_depth(depth), alpha=alpha, beta=beta, by=by, leave=leave or ())
        made.model.facts["made_by"] = {**made.made_by, **{"models": [str(folder) for folder in models]}}
        made.model.write(new)
    print_matched(made.zipped.matched, made.left)
    for (space, part), one in made.zipped.folds.items():
        features = one.unmerge.shape[-1] * (1 if part is None else space.atom.size)
        within = f" in {space.atom.size} groups" if part is not None else ""
        typer.echo(f"{space.name:<40} {features} zipped features{within}, {mixed(one)} of them of several models")
    typer.echo(f"\nzipped  up to {made.zipped.cut}: {100 * made.zipped.depth:.0f}% of the layers"
               f"{'; BatchNorm measured anew' if made.statistics else ''}")  # fmt: skip
    single = made.flops["single"]
    typer.echo(f"FLOPs   {single:,} a row for one model, {made.flops['merged']:,} zipped "
               f"({made.flops['merged'] / single:.2f}x), {made.flops['apart']:,} for all apart")  # fmt: skip
    typer.echo(f"model   {out}")
    return {"model": out, "cut": made.zipped.cut, "depth": made.zipped.depth, "flops": made.flops}


def _depth(text: str) -> float | str:
    """A share of the layers, or a layer's name.

    >>> _depth("0.5"), _depth("layers.3")
    (0.5, 'layers.3')
    """
    try:
        return float(text)
    except ValueError:
        return text
