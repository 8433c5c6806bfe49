"""The folder of the chosen model: its parts, its scores and a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.building.candidates import Candidate
from allround.core.outputs import output_folder
from allround.core.words import percent, shown, span_text
from allround.evaluation.scoreboard import Cell, Scoreboard
from allround.models.calibration import KEY, Calibration
from allround.models.card import write_card
from allround.tasks.definition import Definition
from allround.tasks.metric import better

#: What a run was asked for on the command line, as `--config` reads it.
CONFIG = "config.yml"


def save_best(
    out: Path,
    candidate: Candidate,
    board: Scoreboard,
    calibrations: Mapping[str, Calibration] | None = None,
    *,
    force: bool,
) -> None:
    """Write the chosen system with its scores, where it comes from, and a card.

    calibrations: how its scores are corrected, by task. Errors: those of `output_folder`.
    """
    cells = board.cells[candidate.name]
    facts: dict[str, object] = {
        "made_by": {"system": candidate.name, "settings": dict(candidate.settings), "title": candidate.title},
        "scores": {n: cell_facts(d, cells[n], board.split) for n, d in board.definitions.items()},
        "provenance": board.provenance,
    }
    if calibrations:
        facts[KEY] = {name: one.to_json() for name, one in calibrations.items()}
    with output_folder(out, "build", force=force) as folder:
        candidate.write(folder, board.definitions, facts)
        base = board.provenance.get("base")
        title = "One model for " + ", ".join(board.definitions)
        lines = _card_lines(candidate.title, board)
        if (folder / "encoder").is_dir():
            lines += ["", "The encoder alone, in `encoder/`, loads in the library that it comes from."]
        write_card(folder, title, lines, made_from=[base] if isinstance(base, str) else [])


def cell_facts(definition: Definition, cell: Cell, split: str) -> dict[str, object]:
    """A score as a saved model keeps it."""
    facts = {"metric": definition.metric, split: cell.score, "low": cell.low, "high": cell.high, "rows": cell.n}
    return {**facts, "retention": cell.retention}


def _reference_words(board: Scoreboard) -> str:
    reference = board.system(board.reference or board.systems[0].name)
    return "a specialist tuned for the task alone" if reference.role == "specialists" else reference.title


def _card_lines(title: str, board: Scoreboard) -> list[str]:
    """The text of the card: what the model is, what it scores, how to use it."""
    assert board.best
    lines = [
        f"Made by allround: {title}. Base: {board.provenance.get('base', 'unknown')}.",
        "",
        "| task | metric | test score | 95% interval | test rows | retention |",
        "|---|---|---|---|---|---|",
    ]
    for name, definition in board.definitions.items():
        cell = board.cells[board.best][name]
        kept = percent(cell.retention) if cell.retention is not None else ""
        spread = span_text(cell.low, cell.high, better=better(definition.metric))
        lines.append(
            f"| {name} | {definition.metric} | {shown(cell.score, better(definition.metric))} |{spread} "
            f"| {cell.n} | {kept} |"
        )
    lines += [
        "",
        f"Retention is this model's score divided by that of {_reference_words(board)}.",
        "",
        "```python",
        "import allround",
        "",
        'model = allround.load("this folder")',
        "```",
    ]
    return lines
