"""The align and zip commands: models whose features do not correspond, brought together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.merging.align.networks import Left, Matched
    from allround.models.model import MultiTaskModel
    from allround.tasks.suite import Suite


def align_command(
    first: Path, other: Path, out: Path, *, suite: Suite | None, by: str, rows: int, leave: Sequence[str], force: bool
) -> None:
    """Write the second model in the first's order, and print what was aligned."""
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import output_folder
    from allround.merging.align.models import align_models, batches_from, example_of

    quiet_libraries()
    if suite is None and by == "activations":
        raise AllroundError(
            f"align {other} to {first} by activations",
            "no suite is given, and the two are compared on rows of their tasks",
            "give --suite SUITE, or --by weights, which needs no rows",
        )
    with output_folder(out, "align", force=force, inputs=(first, other)) as folder:
        models = _load((first, other))
        batches = example_of(models) if suite is None else batches_from(models, suite, rows=rows)
        made = align_models(models[0], models[1], batches, by=by, leave=leave)
        made.model.facts["made_by"] |= {"model": str(other), "aligned_to": str(first)}
        made.model.write(folder)
    _table(made.matched, made.left)
    typer.echo(f"\nmodel   {out}\nnext    allround merge --no-base {first} {out} -o MERGED")


def zip_command(
    folders: Sequence[Path],
    out: Path,
    *,
    suite: Suite,
    depth: str,
    rows: int,
    alpha: float,
    beta: float,
    by: str,
    leave: Sequence[str],
    force: bool,
) -> None:
    """Write the zipped model, and print what was zipped and what it costs."""
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import output_folder
    from allround.merging.align.models import batches_from, zip_models
    from allround.merging.align.networks import mixed

    quiet_libraries()
    if len(folders) < 2:
        raise AllroundError("zip models", f"{len(folders)} given", "give two or more")
    with output_folder(out, "zip", force=force, inputs=folders) as new:
        models = _load(folders)
        batches = batches_from(models, suite, rows=rows)
        made = zip_models(models, batches, depth=_depth(depth), alpha=alpha, beta=beta, by=by, leave=leave)
        made.model.facts["made_by"] |= {"models": [str(folder) for folder in folders]}
        made.model.write(new)
    _table(made.zipped.matched, made.left)
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


def _depth(text: str) -> float | str:
    """A share of the layers, or a layer's name.

    >>> _depth("0.5"), _depth("layers.3")
    (0.5, 'layers.3')
    """
    try:
        return float(text)
    except ValueError:
        return text


def _load(folders: Sequence[Path]) -> list[MultiTaskModel]:
    from allround.models.model import load

    return [load(folder) for folder in folders]


def _table(matched: Sequence[Matched], left: Sequence[Left]) -> None:
    width = max((len(one.space.name) for one in matched), default=0)
    sizes = max((len(str(one.space)) for one in matched), default=0)
    typer.echo(f"{'features of':<{width}}  {'number':>{sizes}}   moved  alike before  after (one to one)")
    for one in matched:
        typer.echo(
            f"{one.space.name:<{width}}  {one.space!s:>{sizes}}  {one.order.moved:>6}  {one.before:12.2f}  "
            f"{one.after:5.2f}"
        )
    reasons: dict[str, list[str]] = {}
    for layer in left:
        reasons.setdefault(layer.why, []).append(layer.name)
    for why, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        typer.echo(f"left in place ({why}): {', '.join(names[:3])}{more}")
