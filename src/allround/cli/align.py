"""The command align: a model with its features in the order of another's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DataOption, ForceOption, LeaveOption, OutOption, RowsOption, load_suite
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.merging.align.networks import SpaceMatch, UnalignedWeight
    from allround.models.systems.multi_task_model import MultiTaskModel


app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround align models/a models/b --suite suite.yml -o models/b-like-a`")
def align(
    first: Annotated[Path, typer.Argument(metavar="A", help="A model that allround saved.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same architecture.")],
    out: OutOption,
    suite: Annotated[str | None, typer.Option(help="The suite whose rows the models are compared on.")] = None,
    by: Annotated[str, typer.Option(help="activations, on rows of the suite; or weights, without data.")] = (
        "activations"
    ),
    rows: RowsOption = 256,
    leave: LeaveOption = None,
    data_dir: DataOption = None,
    force: ForceOption = False,
) -> object:
    """Write B with its features in the order of A's, so that models from different starts can be averaged.

    The aligned model answers as B does. Then merge the two: `allround merge --no-base A OUT -o MERGED`.
    """
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
    loaded = load_suite(suite, data_dir) if suite is not None else None
    with output_folder(out, "align", force=force, inputs=(first, other)) as folder:
        models = load_models((first, other))
        batches = example_of(models) if loaded is None else batches_from(models, loaded, rows=rows)
        made = align_models(models[0], models[1], batches, by=by, leave=leave or ())
        made.model.facts["made_by"] = {**made.made_by, **{"model": str(other), "aligned_to": str(first)}}
        made.model.write(folder)
    print_matched(made.matched, made.left)
    typer.echo(f"\nmodel   {out}\nnext    allround merge --no-base {first} {out} -o MERGED")
    alike = {
        one.space.name: {"moved": one.order.moved, "before": one.before, "after": one.after} for one in made.matched
    }
    return {"model": out, "spaces": alike, "left": {layer.name: layer.why for layer in made.left}}


def load_models(folders: Sequence[Path]) -> list[MultiTaskModel]:
    """The models of these folders."""
    from allround.models.systems.multi_task_model import open_model

    return [open_model(folder) for folder in folders]


def print_matched(matched: Sequence[SpaceMatch], left: Sequence[UnalignedWeight]) -> None:
    """Print how alike the features of each space are, and what was left in place."""
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
