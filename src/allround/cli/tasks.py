"""The commands tasks list, tasks show and tasks check."""

from __future__ import annotations

from typing import Annotated

import typer

from allround.cli.help import GROUP, Group
from allround.cli.options import DataOption, OnlyOption, SuiteArgument, TaskArgument, load_suite

app = typer.Typer(help="Look at suites and their tasks.", cls=Group, **GROUP)


@app.command("list", epilog="Example: `allround tasks list digits`")
def tasks_list(
    suite: Annotated[str | None, typer.Argument(help="A suite; left out: the built-in suites.")] = None,
    data_dir: DataOption = None,
) -> object:
    """List the built-in suites, or the tasks of one suite."""
    from allround.core import registry

    if suite is None:
        for entry in registry.entries("suite"):
            typer.echo(f"{entry.name:<10} {entry.summary}")
        return {entry.name: entry.summary for entry in registry.entries("suite")}
    loaded = load_suite(suite, data_dir)
    for name, task in loaded.tasks.items():
        d = task.definition
        typer.echo(f"{name:<20} {d.kind}, {d.metric}; {d.modality}: {', '.join(d.inputs)}")
    return {name: task.definition.to_json() for name, task in loaded.tasks.items()}


@app.command("show", epilog="Example: `allround tasks show digits ink`")
def tasks_show(
    suite: SuiteArgument,
    task: TaskArgument,
    data_dir: DataOption = None,
    rows: Annotated[int, typer.Option(help="How many training rows to show.")] = 3,
) -> object:
    """Show one task: what it asks, its rows, its warnings."""
    from allround.tasks.kind import kind
    from allround.tasks.suite import Suite

    found = Suite.load(suite, data_dir=data_dir, only=[task]).tasks[task]
    d = found.definition
    for label, value in {
        "task": d.name,
        "kind": d.kind,
        "inputs": f"{', '.join(d.inputs)} ({d.modality})",
        "metric": d.metric,
        "labels": ", ".join(d.labels) or "none",
        "instruction": d.instruction or "none",
        "rows": ", ".join(f"{s} {len(split)}" for s, split in found.splits.items()),
    }.items():
        typer.echo(f"{label:<12} {value}")
    for note in found.notes:
        typer.echo(f"{'warning':<12} {note}")
    train_rows = found.splits["train"]
    shown = train_rows.take(range(min(rows, len(train_rows))))
    examples = list(zip(shown.inputs, kind(d.kind).decode(shown.targets, d), strict=True))
    for row, target in examples:
        typer.echo(f"\n{' | '.join(str(v) for v in row)}\n  -> {target}")
    sizes = {split: len(part) for split, part in found.splits.items()}
    return {**d.to_json(), "rows": sizes, "notes": list(found.notes), "examples": examples}


@app.command("check", epilog="Example: `allround tasks check suite.yml`")
def tasks_check(suite: SuiteArgument, data_dir: DataOption = None, only: OnlyOption = None) -> object:
    """Load all data of a suite and say what is wrong or worth knowing."""
    loaded = load_suite(suite, data_dir, only)
    for name, task in loaded.tasks.items():
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in task.splits.items())
        typer.echo(f"{name:<20} {task.definition.kind}, {task.definition.metric}; {sizes}")
        for note in task.notes:
            typer.echo(f"{'':<20} warning: {note}")
    typer.echo(f"{len(loaded.tasks)} tasks can be used")
    return {
        name: {
            **task.definition.to_json(),
            "rows": {split: len(part) for split, part in task.splits.items()},
            "notes": list(task.notes),
        }
        for name, task in loaded.tasks.items()
    }
