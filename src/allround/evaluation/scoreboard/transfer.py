"""Tasks that nothing was trained on: what a scoreboard says of them."""

from __future__ import annotations

from allround.core.words import listed, percent, plural, shown, span_text
from allround.evaluation.scoreboard.scores import Scores, Transfer
from allround.tasks.metric import better
from allround.tasks.roles import GUARD, HELD_OUT

#: The heading of what is said of tasks of a role.
HEADINGS = {HELD_OUT: "Held-out tasks", GUARD: "Guards"}
#: What the tables of a role show, in words.
LEGENDS = {
    HELD_OUT: "No system but the baselines saw training rows of these tasks, and no choice looked at them: they tell "
    "how far training carries over to new tasks. Mean score x 100 over the tasks, with its 95% interval.",
    GUARD: "Nothing but the baselines was trained on these tasks. Their validation scores may rule a system out, and "
    "count for nothing else.",
}


def transfer_sentences(board: Scores) -> list[str]:
    """How the best, or each system where none was chosen, does on tasks that nothing was trained on."""
    found = []
    for system in [board.best] if board.best is not None else [s.name for s in board.systems]:
        made = (board.transfer or {}).get("", {}).get(system)
        if made is not None:
            found.append(_held_out_sentence(board, system, made))
    kept = board.cells.get(board.best or "", {})
    shares = {task: kept[task].retention for task in board.of_role(GUARD) if task in kept}
    known = [f"{percent(share)}% on {task}" for task, share in shares.items() if share is not None]
    if known:
        found.append(f"Of the base's score on guards, {board.best} keeps {listed(known)}.")
    return found


def _held_out_sentence(board: Scores, system: str, made: Transfer) -> str:
    tasks = board.of_role(HELD_OUT)
    rows = sum(board.n(task) for task in tasks)
    total = f"{plural(len(tasks), 'held-out task')} ({plural(rows, board.split + ' row')})"
    score = f"{percent(made.score.value)}{span_text(made.score.low, made.score.high)}"
    if made.gain is None:
        return f"On {total}, which it was not trained on, {system} scores {score} as a mean."
    apart = f"{percent(made.gain.value, signed=True)} points{span_text(made.gain.low, made.gain.high, signed=True)}"
    words = {
        "better": f"better than the base by {percent(made.gain.value)} points"
        f"{span_text(made.gain.low, made.gain.high)}",
        "worse": f"worse than the base ({apart})",
        "no difference found": f"no difference from the base was found ({apart})",
    }
    return f"On {total}, which nothing was trained on, {system} scores {score} as a mean: {words[made.verdict]}."


def transfer_table(board: Scores) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of means over held-out tasks: a row for each system."""
    groups = board.transfer or {}
    with_gain = board.reference is not None
    head = ["system", "mean score", *(["over the base", "mean retention"] if with_gain else [])]
    head += [group for group in groups if group]
    body = []
    for system in board.systems:
        made = groups[""][system.name]
        row = [system.name, f"{percent(made.score.value)}{span_text(made.score.low, made.score.high)}"]
        if with_gain:
            row.append("" if made.gain is None else f"{percent(made.gain.value, signed=True)}"
                       f"{span_text(made.gain.low, made.gain.high, signed=True)}")  # fmt: skip
            kept = made.retention
            row.append(f"{percent(kept.value)}{span_text(kept.low, kept.high)}" if kept else "")
        means = [groups[group][system.name].score for group in groups if group]
        body.append([*row, *(f"{percent(mean.value)}{span_text(mean.low, mean.high)}" for mean in means)])
    return head, body


def scores_table(board: Scores, tasks: list[str]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table of scores: a row for each of the tasks, a column for each system."""
    body = []
    for task in tasks:
        side = better(board.definitions[task].metric)
        cells = [(board.cells[system.name][task], board.mark(system.name, task)) for system in board.systems]
        texts = [
            f"{shown(cell.score, side)}{span_text(cell.low, cell.high, better=side)} {mark}" for cell, mark in cells
        ]
        body.append([task, board.definitions[task].metric, str(board.n(task)), *(text.strip() for text in texts)])
    return ["task", "metric", "rows", *(system.name for system in board.systems)], body
