"""The command report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allround.cli.help import PLAIN
from allround.cli.options import ForceOption

app = typer.Typer(**PLAIN)


@app.command(epilog="Example: `allround report runs/support --table latex --out table.tex`")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; for a table, any with a scoreboard.")],
    table: Annotated[
        str | None, typer.Option(help="Print the scores as a table instead: csv, latex or markdown.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table into this file.")] = None,
    intervals: Annotated[bool, typer.Option(help="With 95% intervals, in tables of LaTeX and Markdown.")] = True,
    force: ForceOption = False,
) -> object:
    """Make the report of a run again from its numbers, or a table of its scores for a paper or a spreadsheet."""
    from allround.core.errors import AllroundError
    from allround.core.outputs import check_out_file, output_file

    if table is None:
        if out is not None:
            raise AllroundError(f"write the report to {out}", "a report lies in its run folder",
                                "leave --out out, or give --table csv, latex or markdown")  # fmt: skip
        from allround.building.runs.report import report as run_again

        files = run_again(run, force=force)
        typer.echo("\n".join(str(path) for path in files))
        return {"files": files}
    from allround.building.runs.report import table as table_of

    if out is not None:
        check_out_file(out, "report", force=force)
    text = table_of(run, table, intervals=intervals)
    if out is None:
        typer.echo(text, nl=False)
        return {"table": text}
    with output_file(out, "report", force=force) as new:
        new.write_text(text, encoding="utf-8")
    typer.echo(f"table   {out}")
    return {"file": out}
