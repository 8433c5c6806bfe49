"""The command diff: how checkpoints differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import ForceOption, ThreadsOption

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround diff models/base models/trec models/sst2 --out runs/diff`")
def diff(
    base: Annotated[str, typer.Argument(help="What the models were tuned from: a folder, a file or a Hub id.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="The models, or LoRA adapters.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write a page with pictures here.")] = None,
    spectrum: Annotated[bool, typer.Option(help="Also compute the ranks of the changes, which takes longer.")] = True,
    workers: ThreadsOption = None,
    force: ForceOption = False,
) -> object:
    """Show how checkpoints differ from their base and from each other: what to look at before merging.

    Norms, cosines and sign conflicts of the changes, by layer; ranks; and what differs besides weights.
    """
    from allround.core.jobs import quiet_libraries
    from allround.core.outputs import check_texts, write_texts
    from allround.merging.diff import FILES
    from allround.merging.diff import diff as compare

    quiet_libraries()
    if out is not None:
        check_texts(out, FILES, "diff", force=force)
    found = compare(base, models, workers=workers, spectrum=spectrum)
    found.print()
    if out is not None:
        write_texts(out, found.files(), "diff", force=force)
        typer.echo(f"\npage      {out / 'diff.html'}\npicture   {out / 'diff.svg'}")
    return found.to_json()
