"""The commands runs list, runs show, runs clean and runs diff."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import GROUP, Group
from allround.core.words import size_text

if TYPE_CHECKING:
    from allround.building.runs.compare import RunComparison
    from allround.building.runs.folder import Run

app = typer.Typer(help="Look at run folders, compare two, and give disk space back.", cls=Group, **GROUP)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/support.")]


@app.command("list", epilog="Example: `allround runs list runs`")
def runs_list(
    root: Annotated[Path, typer.Argument(help="The folder below which runs are looked for.")] = Path(),
) -> object:
    """List the runs below a folder: what, when, whether finished, the best system, the size on the disk."""
    from allround.building.runs.folder import find_runs

    found = find_runs(root)
    if not found:
        typer.echo(f"no runs in {root}")
    lines = [("run", "command", "state", "changed", "size", "of that pieces", "best, mean retention")]
    lines += [
        (str(r.folder), r.command, r.state, _when(r), size_text(r.size), size_text(r.pieces), _best(r)) for r in found
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines if found else ():
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    return found


@app.command("show", epilog="Example: `allround runs show runs/support`")
def runs_show(run: RunArgument) -> object:
    """Show what a run folder holds: its state, its pieces by sort, and the commands that use it."""
    from allround.building.runs.folder import piece_sorts, read_run

    found, sorts = read_run(run), piece_sorts(run)
    for label, value in {
        "run": str(found.folder),
        "command": found.command,
        "state": found.state,
        "changed": _when(found),
        "suite": found.suite or "unknown",
        "base": found.base or "unknown",
        "best": _best(found) or "none yet",
        "size": size_text(found.size),
    }.items():
        typer.echo(f"{label:<10} {value}")
    if sorts:
        typer.echo(f"\npieces     {size_text(found.pieces)}, which `allround runs clean {run}` gives back")
        for one in sorts:
            typer.echo(f"  {one.name:<16} {one.count:>5}  {size_text(one.size):>9}")
    commands = _commands(run, found.command)
    if commands:
        typer.echo("\n" + "\n".join(commands))
    return {"run": found, "pieces": sorts, "commands": commands}


@app.command("clean", epilog="Example: `allround runs clean runs/support --dry-run`")
def runs_clean(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would go.")] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="Pieces that stay, such as 'specialist-*'; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also clean a run that is not finished.")] = False,
) -> object:
    """Remove the pieces of a finished run: specialists, merges that were tried, and what led to them.

    The best model, the scoreboard, the predictions and the report stay. The same build run again then computes
    everything anew. Only files that allround wrote, and nobody changed, are removed.
    """
    from allround.building.runs.cleaning import clean
    from allround.core.words import plural

    found = clean(run, keep=keep or (), dry_run=dry_run, force=force)
    for name in found.pieces if dry_run else ():
        typer.echo(name)
    if found.changed:
        typer.echo(f"kept       {', '.join(found.changed)}: changed since allround wrote it")
    if found.kept:
        typer.echo(f"kept       {plural(len(found.kept), 'piece')}, as asked for")
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {plural(len(found.pieces), 'piece')}, {size_text(found.freed)}")
    typer.echo("The best model, the scoreboard, the predictions and the report stay.")
    typer.echo("The same command run again computes the rest anew.")
    return found


@app.command("diff", epilog="Example: `allround runs diff runs/monday runs/friday`")
def runs_diff(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another one.")],
    system: Annotated[str | None, typer.Option(help="Compare this system of both. Default: the best of each.")] = None,
) -> object:
    """Compare two runs: the settings that differ, and the scores, with a verdict where the rows are the same."""
    from allround.building.runs.compare import compare_runs

    found = compare_runs(first, second, system=system)
    for line in _difference(found):
        typer.echo(line)
    return found


def _when(run: Run) -> str:
    return datetime.datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M")


def _best(run: Run) -> str:
    from allround.core.words import percent

    return f"{run.best}, {percent(run.retention)}%" if run.retention is not None else run.best or ""


def _commands(run: Path, command: str) -> list[str]:
    """Command lines that use a run."""
    best, report = run / "best", [f"allround report {run}"]
    if command == "build" and (best / "allround.json").is_file():
        from allround.models.manifest import read_manifest

        task = next(iter(read_manifest(best)[1]))
        report = [f"allround predict {best} --task {task} --input ROWS.csv", *report]
    if command not in ("build", "compare-training"):
        report = []
    again = [f"allround {command} --config {run / 'config.yml'}"] if (run / "config.yml").is_file() else []
    return [*again, *report]


def _difference(found: RunComparison) -> list[str]:
    """The comparison in lines."""
    from allround.core.words import shown, span_text
    from allround.tasks.metric import better

    lines = [f"first   {found.runs[0]}: {found.systems[0]}", f"second  {found.runs[1]}: {found.systems[1]}", ""]
    for name, (one, other) in found.settings.items():
        lines.append(f"{name}: {'not set' if one is None else one} -> {'not set' if other is None else other}")
    lines += ["the same settings, base and data" if not found.settings else "", ""][found.settings != {} :]
    width = max((len(score.task) for score in found.scores), default=4)
    for score in found.scores:
        side = better(score.metric)
        signed = side == "higher"
        change = score.difference.value if signed else -score.difference.value
        words = score.verdict or "not the same rows, or no predictions of one: no verdict"
        spread = span_text(score.difference.low, score.difference.high, signed=True) if signed else ""
        first, second = shown(score.first, side), shown(score.second, side)
        moved = f"{100 * change:+.1f}" if signed else f"{change:+.3g}"
        lines.append(f"{score.task:<{width}}  {score.metric}  {first} -> {second}  {moved}{spread}  {words}")
    lines += [f"only in one of them: {', '.join(found.only)}"] if found.only else []
    lines.append("A verdict is on the second run; it rests on the 95% interval of the paired difference.")
    return lines
