"""The command extract-lora: an adapter from a full checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import DeviceOption, ForceOption, OutOption

if TYPE_CHECKING:
    from allround.merging.extract import Extracted

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround extract-lora models/trec models/base --rank 16 -o lora`")
def extract_lora(
    tuned: Annotated[str, typer.Argument(help="A tuned model: a folder, a file or a Hub id.")],
    base: Annotated[str, typer.Argument(help="What it was tuned from.")],
    out: OutOption,
    rank: Annotated[int, typer.Option(help="Most singular directions kept of each weight's change.")] = 16,
    energy: Annotated[
        float | None, typer.Option(help="Keep only as many as hold this share of the squared change, such as 0.95.")
    ] = None,
    embeddings: Annotated[bool, typer.Option(help="Also of the embeddings.")] = False,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> object:
    """Make a LoRA adapter from a full checkpoint, and say how much of its change the adapter holds."""
    from allround.core.jobs import quiet_libraries
    from allround.merging.extract import extract_lora as run

    quiet_libraries()
    made = run(tuned, base, out, rank, energy=energy, embeddings=embeddings, device=device or "cpu", force=force)
    tell(made)
    typer.echo(f"\nadapter    {out}")
    return {"adapter": out, "share": made.share, "ranks": made.ranks, "kept": made.kept, "left_out": made.left_out}


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
