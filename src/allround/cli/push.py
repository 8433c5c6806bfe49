"""The command push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import ForceOption

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround push runs/support mine/support-model --license apache-2.0 --dry-run`")
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or the folder of a saved model.")],
    repository: Annotated[str, typer.Argument(metavar="HUB_ID", help="Where to: OWNER/NAME on the Hub.")],
    licence: Annotated[
        str | None, typer.Option("--license", help="License of the model. Default: that of the base, by its card.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="A data set of the Hub that it was trained on; may be repeated.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Upload nothing: write the folder here, and show the card.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where a dry run writes. Default: RUN.push.")] = None,
    force: ForceOption = False,
) -> object:
    """Upload the best model of a run to the Hub, with a model card: scores, intervals, how it was made, how to use it.

    Only the model is uploaded; the pieces of the run and the data are not.
    """
    from allround.building.push import push as upload
    from allround.core.words import size_text

    made = upload(run, repository, licence=licence, datasets=dataset or (), private=private, dry_run=dry_run, out=out,
                  force=force)  # fmt: skip
    if dry_run:
        typer.echo(made.card)
    for name, size in made.files.items():
        typer.echo(f"{size_text(size):>10}  {name}")
    typer.echo(f"\n{'nothing was uploaded; it lies in' if dry_run else 'uploaded to'} {made.where}")
    return made
