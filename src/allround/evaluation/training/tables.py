"""A comparison of trainings in Markdown, and in tables on a console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from allround.core.progress import make_console
from allround.core.words import count, duration, gibibytes, percent, printable, rate, shown, size_text, span_text
from allround.evaluation.score_table import Score, ScoreTable
from allround.evaluation.scoreboard import MARKS
from allround.evaluation.tables import (
    column_groups,
    console_table,
    fitting_columns,
    markdown_table,
    markdown_text,
    wrapped,
)
from allround.evaluation.training.results import (
    EQUAL,
    SPECIALISTS,
    Baseline,
    Estimate,
    Training,
    TrainingCost,
    TrainingResults,
)
from allround.evaluation.training.words import how, legend, memory_words, task_legend, words
from allround.tasks.metric import better

if TYPE_CHECKING:
    from rich.console import Console


def markdown(results: TrainingResults) -> str:
    """The comparison as Markdown."""
    lines = [f"# {markdown_text(results.title)}", "", *(f"- {markdown_text(line)}" for line in words(results))]
    lines += ["", "## Methods", "", *markdown_table(*methods_table(results))]
    lines += ["", markdown_text(legend(results)), "", markdown_text(memory_words(results))]
    lines += ["", "## Task by task", ""]
    head = ["task", "metric", "test rows", SPECIALISTS, *(one.name for one in results.tested)]
    body = [[t, d.metric, str(results.rows[t]), *task_cells(results, t)] for t, d in results.definitions.items()]
    lines += [*markdown_table(head, body), "", markdown_text(task_legend(results))]
    lines += ["", "## What was tried on validation rows", "", *markdown_table(*tried_table(results))]
    lines += ["", "## How this was measured", "", markdown_text(how(results))]
    lines += [""] + [f"- {markdown_text(f'{name}: {text}')}" for name, text in facts(results)]
    if results.notes:
        lines += ["", "## Notes", "", *(f"- {markdown_text(note)}" for note in results.notes)]
    return "\n".join(lines) + "\n"


def methods_table(results: TrainingResults) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of methods, specialists first."""
    head = ["method", "mean retention", f"vs {EQUAL}", "worst task", "learning rate", "validation", "choices",
            "training", "steps", "backward passes a step", "peak memory", "further task"]  # fmt: skip
    cost = results.reference.cost
    rates = sorted(set(results.reference.rates.values()))
    spread = rate(rates[0]) if len(rates) == 1 else f"{rate(rates[0])} to {rate(rates[-1])}"
    body = [[SPECIALISTS, "100", "", "", spread, "100", str(cost.choices), duration(cost.seconds),
             count(cost.steps), f"{cost.backward_passes:.3g}", gibibytes(cost.peak_memory),
             stored_text(cost)]]  # fmt: skip
    for beside in results.baselines:
        body.append([beside.name, *_tested(beside), "", "", str(beside.cost.choices), duration(beside.cost.seconds), "",
                     "", "", stored_text(beside.cost)])  # fmt: skip
    for one in results.methods:
        cost = one.cost
        body.append([
            one.name + ("*" if one is results.best and len(results.methods) > 1 else ""),
            *_tested(one),
            rate(one.learning_rate),
            percent(one.validation_mean),
            str(cost.choices),
            duration(cost.seconds),
            count(cost.steps),
            f"{cost.backward_passes:.3g}",
            gibibytes(cost.peak_memory),
            stored_text(cost),
        ])  # fmt: skip
    if not any(row[-1] for row in body):
        return head[:-1], [row[:-1] for row in body]
    return head, body


def _tested(one: Baseline | Training) -> list[str]:
    """Mean retention on test, the difference from equal weights, and the task that keeps least."""
    test, worst = one.test, one.test.worst
    return [
        test.mean.share if test.mean else "",
        test.equal.mean.points if test.equal.mean and one.name != EQUAL else "",
        f"{percent(test.retention[worst].value)} {worst}" if worst else "",
    ]


def stored_text(cost: TrainingCost) -> str:
    """What one further task would store."""
    return "" if cost.further is None else size_text(cost.further)


def score_table(results: TrainingResults) -> ScoreTable:
    """Scores on test, means over the seeds: the specialists and every method on every task, and mean retention."""
    sides = {task: better(definition.metric) for task, definition in results.definitions.items()}
    alone: tuple[str, Mapping[str, Estimate], Score | None] = (SPECIALISTS, results.reference.scores, Score(1.0))
    listed = [alone, *((one.name, one.test.scores, _entry(one.test.mean, "higher")) for one in results.tested)]
    rows = [(name, [*(_entry(scores[t], sides[t]) for t in sides), mean]) for name, scores, mean in listed]
    columns = [f"{task} ({definition.metric})" for task, definition in results.definitions.items()]
    return ScoreTable([*columns, "mean retention"], rows)


def _entry(found: Estimate | None, side: str) -> Score | None:
    return None if found is None else Score(found.value, found.low, found.high, side)


def task_cells(results: TrainingResults, task: str) -> list[str]:
    """The score of the specialist on a task, then what of it each other system keeps, with "-" or "+" where its score
    is worse or better than that of equal weights."""
    metric = results.definitions[task].metric
    found = results.reference.scores[task]
    cells = [shown(found.value, better(metric)) + span_text(found.low, found.high, better=better(metric))]
    for one in results.tested:
        kept = one.test.retention.get(task)
        text = kept.share if kept else "undefined"
        mark = MARKS[one.test.equal.tasks[task].verdict] if one.name != EQUAL else ""
        cells.append(f"{text} {mark}".strip())
    return cells


def tried_table(results: TrainingResults) -> tuple[list[str], list[list[str]]]:
    """Every setting that was tried: of the methods, then of the sweep; the seed is the first one."""
    head = ["method", "learning rate", "weights", "mean retention", "least retention", "chosen"]
    body = []
    for one in results.methods:
        for tried in one.tried if one.name != "tuned" else []:
            body.append([one.name, rate(tried.learning_rate), "", percent(tried.mean), percent(tried.worst),
                         "chosen" if tried.chosen else ""])  # fmt: skip
    for tried in results.sweep:
        weights = ", ".join(f"{task} {weight:.2f}" for task, weight in tried.weights.items())
        body.append(["sweep", rate(tried.learning_rate), weights, percent(tried.mean), percent(tried.worst),
                     "chosen" if tried.chosen else ""])  # fmt: skip
    return head, body


def facts(results: TrainingResults) -> list[tuple[str, str]]:
    """What the figures belong to, in pairs."""
    found = [
        ("Seeds", ", ".join(str(seed) for seed in results.seeds)),
        ("Rows measured on", f"{sum(results.rows.values()):,} of the test split"),
        ("Common to all", ", ".join(f"{name} {value}" for name, value in results.settings.items())),
    ]
    about = results.provenance
    found += [(title, str(about[key])) for key, title in (("date", "Date"), ("machine", "Machine")) if key in about]
    if about.get("workers"):
        found.append(("Trainings at a time", str(about["workers"])))
    if isinstance(seconds := about.get("total_seconds"), (int, float)) and seconds:
        found.append(("This run", duration(seconds)))
    if isinstance(versions := about.get("versions"), Mapping) and versions:
        found.append(("Versions", ", ".join(f"{n} {v}" for n, v in versions.items())))
    found.append(("Fingerprint", f"{results.fingerprint()[:16]} (of everything but timings and memory)"))
    return found


def print_results(results: TrainingResults, console: Console | None = None) -> None:
    """Print tables and verdict in ASCII, within the console's width."""
    from rich.text import Text

    console = console or make_console()
    head, body = methods_table(results)
    body = [[wrapped(printable(row[0])), *map(printable, row[1:])] for row in body]
    first_out = ("steps", "choices", "peak memory", "further task", "validation", "learning rate",
                 "backward passes a step")  # fmt: skip
    kept = fitting_columns(head, body, console.width, first_out=first_out)
    table = console_table()
    for i in kept:
        table.add_column(head[i], justify="left" if head[i] in ("method", "worst task") else "right")
    for row in body:
        table.add_row(*(Text(row[i]) for i in kept))
    console.print(table)
    console.print()
    _print_tasks(results, console)
    console.print()
    console.print(Text(printable(f"{legend(results)} {task_legend(results)}"), style="dim"))
    console.print()
    for line in words(results):
        console.print(Text(printable(line)))


def _print_tasks(results: TrainingResults, console: Console) -> None:
    from rich.text import Text

    left = max(len(task) for task in results.definitions) + 8
    names = [SPECIALISTS, *(one.name for one in results.tested)]
    cells = {task: [cell.split(" [")[0] + cell.partition("]")[2] for cell in task_cells(results, task)]
             for task in results.definitions}  # fmt: skip
    for number, block in enumerate(column_groups(names, console.width - left, least=8)):
        if number:
            console.print()
        table = console_table()
        table.add_column("task", no_wrap=True)
        table.add_column("rows", justify="right")
        for i in block:
            table.add_column(Text(wrapped(printable(names[i]))), justify="right", no_wrap=True)
        for task in results.definitions:
            table.add_row(Text(printable(task)), str(results.rows[task]), *(Text(cells[task][i]) for i in block))
        console.print(table)
