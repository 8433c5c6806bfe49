"""The commands tasks list, tasks show and tasks check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allround.cli.help import GROUP, Group
from allround.cli.options import (
    BaseOption,
    DataOption,
    ForceOption,
    OnlyOption,
    OutOption,
    SuiteArgument,
    TaskArgument,
    load_suite,
)

if TYPE_CHECKING:
    from allround.tasks.task import Task

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
    base: Annotated[
        str | None, typer.Option(help="A language model: show the prompt as it reads it, with its chat template.")
    ] = None,
) -> object:
    """Show one task: what it asks, its rows, its warnings, and how it is put to a language model."""
    from allround.evaluation.errors import text_of
    from allround.tasks.column_types import columns_in_words
    from allround.tasks.kind import kind
    from allround.tasks.prompt_text import example_text
    from allround.tasks.suite import Suite

    found = Suite.load(suite, data_dir=data_dir, only=[task]).tasks[task]
    d = found.definition
    written = kind(d.kind).written
    for label, value in {
        "task": d.name,
        "kind": d.kind,
        "inputs": f"{', '.join(d.inputs)} ({d.modality})",
        "metric": d.metric,
        "labels": ", ".join(d.labels) or "none",
        "instruction": d.instruction or "none",
        **{f"reworded {n}": one for n, one in enumerate(d.rewordings, 1)},
        "rows": ", ".join(f"{s} {len(split)}" for s, split in found.splits.items()),
    }.items():
        typer.echo(f"{label:<12} {value}")
    for column, words in columns_in_words(d.inputs, d.columns).items() if d.columns else ():
        typer.echo(f"{'column':<12} {column}: {words}")
    for note in found.notes:
        typer.echo(f"{'warning':<12} {note}")
    train_rows = found.splits["train"]
    shown = train_rows.take(range(min(rows, len(train_rows))))
    examples = list(zip(shown.inputs, kind(d.kind).decode(shown.targets, d), strict=True))
    for row, target in examples:
        inputs = text_of(row, d.inputs, d.modality) if d.modality == "fields" else " | ".join(str(v) for v in row)
        typer.echo(f"\n{inputs}\n  -> {' / '.join(target) if written and isinstance(target, list) else target}")
    sizes = {split: len(part) for split, part in found.splits.items()}
    result = {**d.to_json(), "rows": sizes, "notes": list(found.notes), "examples": examples}
    if len(train_rows) and base is not None:
        result["asked"] = _show_read(found, base)
    elif examples and (d.prompt is not None or kind(d.kind).for_language_models):
        prompt, answer = example_text(d, *examples[0])
        typer.echo(f"\nThe prompt of the first row{_other_prompts(found)}, without a chat template:\n")
        typer.echo("\n".join(f"  {line}" for line in [*prompt.splitlines(), f"-> {answer}"]))
        result["asked"] = {"prompt": prompt, "answer": answer}
    return result


def _show_read(task: Task, base: str) -> dict[str, object]:
    """Print the prompt of the first training row as a base reads it."""
    from dataclasses import asdict

    from allround.models.language.reading import language_model, read_prompt

    read = read_prompt(language_model(base), task.definition, task.splits["train"])
    form = "with its chat template" if read.chat else "without a chat template"
    cut = "; an input is cut" if read.cut else ""
    typer.echo(f"\nThe prompt of the first row{_other_prompts(task)}, as {base} reads it {form} "
               f"({read.tokens} tokens{cut}):\n")  # fmt: skip
    lines = [*read.text.splitlines(), *([f"-> {read.answer}"] if read.answer else [])]
    typer.echo("\n".join(f"  {line}" for line in lines))
    return asdict(read)


def _other_prompts(task: Task) -> str:
    templates = task.definition.prompt.templates if task.definition.prompt is not None else ()
    return f" (the first of {len(templates)})" if len(templates) > 1 else ""


@app.command(
    "import",
    epilog='Example: `allround tasks import natural_instructions "tasks/*.json" --shots 2 --out instructions`',
)
def tasks_import(
    collection: Annotated[str, typer.Argument(help="natural_instructions, promptsource or tasksource.")],
    files: Annotated[list[str], typer.Argument(help="The files of the collection; a pattern such as '*.json' too.")],
    out: OutOption,
    *,
    shots: Annotated[
        int | None, typer.Option(help="natural_instructions: positive examples that stand in the prompt.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="promptsource: the rows for its templates: a file, a folder or a Hub id.")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="promptsource: use this template; may be repeated. Default: all.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="promptsource: make one task of the templates, with several prompts.")
    ] = False,
    hold_out: Annotated[
        Path | None, typer.Option(help="A file with the names of tasks to hold out, one a line.")
    ] = None,
    force: ForceOption = False,
) -> object:
    """Write a suite file, and its rows beside it, from tasks that others wrote down.

    The suite file is yours: prompts, limits and what is held out can be changed in it. Templates are rendered here,
    in a sandbox with limits of time and memory, and never again.
    """
    from allround.core.reading import read_text
    from allround.core.words import plural
    from allround.tasks.collection import found_files, import_tasks

    given = {"shots": shots, "data": data, "templates": tuple(template) if template else None,
             "together": together or None}  # fmt: skip
    names = read_text(hold_out, what="list of names").split() if hold_out is not None else []
    made = import_tasks(
        collection,
        found_files(files),
        out,
        parameters={name: value for name, value in given.items() if value is not None},
        hold_out=names,
        force=force,
    )
    for task in made:
        rows = ", ".join(f"{split} {len(part):,}" for split, part in task.rows.items())
        category = f"; {task.about['category']}" if "category" in task.about else ""
        typer.echo(f"{task.name:<20} {task.about['kind']}; {rows}{category}")
        for note in task.notes:
            typer.echo(f"{'':<20} note: {note}")
    typer.echo(f"{plural(len(made), 'task')} written to {out}/suite.yml")
    return {task.name: {"kind": task.about["kind"], "rows": {s: len(p) for s, p in task.rows.items()}} for task in made}


@app.command("check", epilog="Example: `allround tasks check suite.yml --html data.html`")
def tasks_check(
    suite: SuiteArgument,
    data_dir: DataOption = None,
    only: OnlyOption = None,
    base: BaseOption = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with pictures of the labels and lengths.")
    ] = None,
    force: ForceOption = False,
) -> object:
    """Load all data of a suite and say what is wrong or worth knowing, for all tasks at once.

    That is rare labels and labels that look alike, repeated rows and rows that contradict each other, too few test
    rows, blank texts and texts that are too long for the base, columns that say nothing or too much, and how each
    column of a table was understood.
    """
    from allround.cli.checks import length_findings, write_page
    from allround.cli.screen import give
    from allround.core.problems import Problems
    from allround.core.words import plural
    from allround.tasks.checks.run import check_task, task_facts
    from allround.tasks.column_types import columns_in_words

    problems = Problems()
    loaded = load_suite(suite, data_dir, only, problems=problems)
    lengths = length_findings(loaded, base)
    findings = {name: [*check_task(task), *lengths.get(name, [])] for name, task in loaded.tasks.items()}
    for name, task in loaded.tasks.items():
        d = task.definition
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in task.splits.items())
        typer.echo(f"{name:<20} {d.kind}, {d.metric}; {sizes}")
        for column, words in columns_in_words(d.inputs, d.columns).items() if d.columns else ():
            typer.echo(f"{'':<20} column {column}: {words}")
        for note in task.notes:
            typer.echo(f"{'':<20} note: {note}")
        for finding in findings[name]:
            typer.echo(f"{'':<20} warning: {finding}")
    if html is not None:
        write_page(html, loaded, findings, force=force)
    found = sum(map(len, findings.values()))
    typer.echo(f"{plural(len(loaded.tasks), 'task')} can be used; {plural(found, 'warning')}")
    result = {name: task_facts(task, findings[name]) for name, task in loaded.tasks.items()}
    if problems.errors:
        give(result)
    problems.check(f"load the suite '{suite}'")
    return result
