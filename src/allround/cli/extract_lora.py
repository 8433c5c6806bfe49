"""The command extract-lora: an adapter from a full checkpoint, or of a task from a model that shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DeviceOption, ForceOption, OutOption
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.merging.extract import Extracted

#: Of each change, unless another is asked for.
RANK = 16

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround extract-lora models/trec models/base --rank 16 -o lora`")
def extract_lora(
    tuned: Annotated[str, typer.Argument(help="A tuned model: a folder, a file or a Hub id.")],
    out: OutOption,
    base: Annotated[str | None, typer.Argument(help="What it was tuned from; left out with --task.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Write what this task uses of a model that shares by poly, mhr or c_poly, as it is."),
    ] = None,
    rank: Annotated[int, typer.Option(help="Most singular directions kept of each weight's change.")] = RANK,
    energy: Annotated[
        float | None, typer.Option(help="Keep only as many as hold this share of the squared change, such as 0.95.")
    ] = None,
    embeddings: Annotated[bool, typer.Option(help="Also of the embeddings.")] = False,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> object:
    """Make a LoRA adapter from a full checkpoint, and say how much of its change the adapter holds.

    With --task the model is one that shares, and the adapter is what this task uses.
    """
    from allround.core.jobs import quiet_libraries
    from allround.merging.extract import extract_lora as run

    quiet_libraries()
    if task is not None:
        if base is not None or (rank, energy, embeddings) != (RANK, None, False):
            raise AllroundError(
                f"extract the adapter of task '{task}' from {tuned}",
                "a model that shares holds its base, and its changes are written as they are",
                "leave BASE, --rank, --energy and --embeddings out",
            )
        return _of_task(Path(tuned), task, out, force=force)
    if base is None:
        raise AllroundError(
            f"extract an adapter from {tuned}",
            "it is not said what the model was tuned from",
            "name the base too; or, of a model that shares, a task: --task",
        )
    made = run(tuned, base, out, rank, energy=energy, embeddings=embeddings, device=device or "cpu", force=force)
    tell(made)
    typer.echo(f"\nadapter    {out}")
    return {"adapter": out, "share": made.share, "ranks": made.ranks, "kept": made.kept, "left_out": made.left_out}


def _of_task(model: Path, task: str, out: Path, *, force: bool) -> object:
    """A task's own change of a model that shares."""
    from allround.models.encoders.sharing import Sharing
    from allround.models.share.lifting import lift_out
    from allround.models.system import load
    from allround.models.systems.multi_task_model import MultiTaskModel

    system = load(model)
    if not isinstance(system, MultiTaskModel) or not isinstance(system.encoder, Sharing):
        raise AllroundError(
            f"extract the adapter of task '{task}' from {model}",
            "it is not a model that shares by a plan",
            "give a model that was trained with --share poly, mhr or c_poly; of a specialist, give its base instead",
        )
    ranks = lift_out(system.encoder, task, out, force=force, inputs=[model])
    inner = model / "encoder" / "inner"
    typer.echo(f"adapter of {len(ranks)} layers, rank {max(ranks.values())}: all that {task} changes of {inner}")
    typer.echo(f"\nadapter    {out}")
    return {"adapter": out, "task": task, "ranks": ranks}


def tell(made: Extracted) -> None:
    """Say how much of a change an adapter holds."""
    ranks = sorted(made.ranks.values())
    span = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
    typer.echo(f"adapter of {len(ranks)} weights, {span}: it holds {100 * made.share:.1f}% of the squared change")
    worst = sorted(made.kept.items(), key=lambda pair: pair[1])[:3]
    typer.echo("least of   " + ", ".join(f"{name} ({100 * kept:.1f}%)" for name, kept in worst))
    if made.whole:
        typer.echo(f"whole      {len(made.whole)} weights that LoRA cannot hold are stored as they are")
    if made.left_out:
        listed = ", ".join(f"{name} ({100 * share:.1f}%)" for name, share in list(made.left_out.items())[:3])
        typer.echo(f"left out   {len(made.left_out)} weights, with their share of the squared change: {listed}")
