"""A scoreboard in Markdown, and in tables on a console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allround.core.progress import make_console
from allround.core.words import count, duration, number_text, percent, printable, shown, span_text
from allround.evaluation.scoreboard.adapted import HEADING, LEGEND, adapted_table
from allround.evaluation.scoreboard.scores import Scores
from allround.evaluation.scoreboard.transfer import HEADINGS, LEGENDS, scores_table, transfer_table
from allround.evaluation.scoreboard.words import answer, legend, method
from allround.evaluation.tables import (
    column_groups,
    console_table,
    fitting_columns,
    markdown_table,
    markdown_text,
    wrapped,
)
from allround.tasks.metric import better
from allround.tasks.roles import HELD_OUT

if TYPE_CHECKING:
    from rich.console import Console


def markdown(board: Scores) -> str:
    """The board as Markdown: the answer, the systems, the scores, the comparisons, how it was measured."""
    lines = ["# Scoreboard", "", *(markdown_text(line) for line in answer(board)), "", "## Systems", ""]
    lines += markdown_table(*systems_table(board))
    lines += ["", f"## Scores on the {board.split} rows", ""]
    lines += markdown_table(*scores_table(board, list(board.trained)))
    lines += ["", markdown_text(legend(board))]
    for role, heading in HEADINGS.items():
        if tasks := board.of_role(role):
            lines += ["", f"## {heading}", "", *markdown_table(*scores_table(board, tasks))]
            if role == HELD_OUT and board.transfer:
                lines += ["", *markdown_table(*transfer_table(board))]
            lines += ["", markdown_text(LEGENDS[role])]
    if board.adapted:
        lines += ["", f"## {HEADING}", "", *markdown_table(*adapted_table(board)), "", markdown_text(LEGEND)]
    if board.comparisons:
        lines += ["", "## Compared", "", *(f"- {markdown_text(c.words)}" for c in board.comparisons)]
    if board.calibration:
        lines += ["", "## Calibration", "", *markdown_table(*calibration_table(board))]
        lines += ["", markdown_text(calibration_legend(board))]
    lines += ["", "## How this was measured", "", markdown_text(method(board))]
    warnings = board.notes.get("tasks") or {}
    extra = [f"{task}: {text}" for task, texts in warnings.items() for text in _texts(texts)]
    said = (
        board.notes.get("training"),
        board.notes.get("routing"),
        board.notes.get("prompts"),
        board.notes.get("budget"),
    )
    extra += [words for texts in said for words in _texts(texts)]
    if extra:
        lines += ["", "## Notes", "", *(f"- {markdown_text(line)}" for line in extra)]
    return "\n".join(lines) + "\n"


def calibration_legend(board: Scores) -> str:
    """What the table of calibration shows, in words."""
    words = (
        "ECE is the expected calibration error on test: how far confidence is from the share of right answers, over 15 "
        "bins of equal width; 0 is best. By chance: what it would be on as many rows if the confidences after "
        "calibration were exactly right. Calibration is fitted on validation. A temperature above 1 makes scores less "
        "sure."
    )
    if any(one.sets for tasks in (board.calibration or {}).values() for one in tasks.values()):
        words += (
            " Sets hold the right answer in the share of rows that is called covered; their size is in labels, or the "
            "width of an interval. Validation was also used to choose settings and systems, so the share on test may "
            "lie below what was asked for."
        )
    return words


def calibration_table(board: Scores) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of calibration: a row for each system and task."""
    found = [(system, task, one) for system, tasks in (board.calibration or {}).items() for task, one in tasks.items()]
    with_sets = any(one.sets for _, _, one in found)
    head = ["system", "task", "method", "ECE before", "ECE after", "by chance"]
    head += ["asked to cover", "covered", "mean size"] if with_sets else []
    body = []
    for system, task, one in found:
        method = f"{one.method} {one.temperature:.2f}" if one.temperature is not None else one.method
        row = [system, task, method, *(percent(r.ece) if r else "" for r in (one.before, one.after))]
        row.append(percent(one.after.chance) if one.after and one.after.chance is not None else "")
        if with_sets and one.sets is None:
            row += ["", "", ""]
        elif one.sets is not None:
            size = "unlimited" if one.sets.size is None else f"{one.sets.size:.2f}"
            row += [percent(one.sets.asked), percent(one.sets.covered), size]
        body.append(row)
    return head, body


def systems_table(board: Scores) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of systems."""
    retentions = ["mean retention", "worst retention"] if board.mean else []
    head = ["system", "role", *retentions, "stored", "used", "trained on", "training", "merged on", "merging",
            "inputs/s", "choices"]  # fmt: skip
    metered = any(system.cost.watt_hours is not None for system in board.systems)
    head += ["Wh/1,000", "g CO2e/1,000"] if metered else []
    body = []
    for system in board.systems:
        cost, row = system.cost, [system.name + ("*" if system.name == board.best else ""), system.role]
        if retentions:
            mean, worst = board.mean.get(system.name), board.worst.get(system.name)
            if system.name == board.reference:
                row += ["100", "100"]
            else:
                row.append(f"{percent(mean.value)}{span_text(mean.low, mean.high)}" if mean else "")
                row.append(f"{percent(worst.value)} {worst.task}" if worst else "")
        row += [count(cost.parameters_stored), count(cost.parameters_used), count(cost.training_examples)]
        merging = [count(cost.merge_rows), duration(cost.merge_seconds)] if system.role == "merge" else ["", ""]
        row += [duration(cost.training_seconds), *merging]
        row += [count(cost.examples_per_second), count(cost.search_choices)]
        row += [number_text(cost.watt_hours), number_text(cost.carbon)] if metered else []
        body.append(row)
    return head, body


def print_scores(board: Scores, console: Console | None = None) -> None:
    """Print the board in ASCII, in tables that fit the console's width."""
    from rich.text import Text

    console = console or make_console()
    console.print(Text(printable(" ".join(answer(board)))))
    console.print()
    if board.reference is not None:
        _print_systems(board, console)
    _print_tasks(board, list(board.trained), console)
    for role, heading in HEADINGS.items():
        if tasks := board.of_role(role):
            console.print()
            console.print(Text(heading, style="bold"))
            _print_tasks(board, tasks, console)
            if role == HELD_OUT and board.transfer:
                console.print()
                _print_means(board, console)
    if board.adapted:
        console.print()
        console.print(Text(HEADING, style="bold"))
        _print_rows(*adapted_table(board), console, first_out=("metric", "rows", "gained"))
    by_metric: dict[str, list[str]] = {}
    for task, definition in board.definitions.items():
        by_metric.setdefault(definition.metric, []).append(task)
    metrics = "; ".join(f"{metric}: {', '.join(tasks)}" for metric, tasks in by_metric.items())
    console.print()
    console.print(Text(printable(f"{legend(board)} Metrics are {metrics}."), style="dim"))


def _print_systems(board: Scores, console: Console) -> None:
    from rich.text import Text

    head, body = systems_table(board)
    body = [[wrapped(printable(row[0])), *map(printable, row[1:])] for row in body]
    kept = fitting_columns(
        head,
        body,
        console.width,
        never=("role", "used", "inputs/s", "trained on"),
        first_out=("choices", "merged on", "training", "merging"),
    )
    table = console_table()
    for i in kept:
        table.add_column(head[i], justify="left" if head[i] in ("system", "worst retention") else "right")
    for row, system in zip(body, board.systems, strict=True):
        table.add_row(*(Text(row[i]) for i in kept), style="bold" if system.name == board.best else None)
    console.print(table)
    console.print()


def _print_means(board: Scores, console: Console) -> None:
    """Means over the held-out tasks."""
    head, body = transfer_table(board)
    _print_rows(head, body, console, first_out=tuple(reversed(head[2:])))


def _print_rows(head: list[str], body: list[list[str]], console: Console, *, first_out: tuple[str, ...]) -> None:
    """A table, without some of its columns where it is too wide."""
    from rich.text import Text

    kept = fitting_columns(head, body, console.width, never=(), first_out=first_out)
    table = console_table()
    for place in kept:
        table.add_column(printable(head[place]), justify="right" if place else "left")
    for row in body:
        table.add_row(*(Text(printable(row[place])) for place in kept))
    console.print(table)


def _print_tasks(board: Scores, tasks: list[str], console: Console) -> None:
    """Scores of tasks; with their intervals where there is no reference to compare with."""
    from rich.text import Text

    left = max((len(task) for task in tasks), default=4) + 8
    names = [system.name for system in board.systems]
    for number, places in enumerate(column_groups(names, console.width - left + 2, least=6)):
        block = [board.systems[place] for place in places]
        if number:
            console.print()
        table = console_table()
        table.add_column("task", no_wrap=True)
        table.add_column("rows", justify="right")
        for system in block:
            table.add_column(Text(wrapped(printable(system.name))), justify="right", no_wrap=True)
        for task in tasks:
            metric, cells = board.definitions[task].metric, []
            for system in block:
                mark = board.mark(system.name, task)
                cell = board.cells[system.name][task]
                text = f"{shown(cell.score, better(metric))}{mark or ' '}"
                if board.reference is None:
                    text = text.rstrip() + span_text(cell.low, cell.high, better=better(metric))
                cells.append(Text(text, style={"-": "red", "+": "green"}.get(mark, "")))
            table.add_row(Text(printable(task)), str(board.n(task)), *cells)
        console.print(table)


def _texts(value: str | list[str] | None) -> list[str]:
    """One text, several, or none, as a list."""
    return [] if not value else [value] if isinstance(value, str) else list(value)
