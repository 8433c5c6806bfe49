"""The scoreboard as a page: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from allround.core.outputs import write_texts
from allround.core.words import count, duration, number_text, percent, plural, shown, span_text
from allround.evaluation.facts import ReportFacts, TaskFacts, TriedSetting
from allround.evaluation.page_pictures import PagePicture, page_picture
from allround.evaluation.pages import breakable, settings_text, template
from allround.evaluation.scoreboard import Comparison, Scoreboard
from allround.evaluation.scoreboard.adapted import HEADING, LEGEND, adapted_table
from allround.evaluation.scoreboard.scores import CostName
from allround.evaluation.scoreboard.tables import calibration_legend, calibration_table
from allround.evaluation.scoreboard.transfer import HEADINGS, LEGENDS, scores_table, transfer_table
from allround.evaluation.sharing import SharingFacts, draw_uses
from allround.tasks.metric import better
from allround.tasks.roles import HELD_OUT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The most tasks next to each other in a table of scores, and in a heat map: what fits on a page of paper and a screen.
SCORE_COLUMNS, HEAT_COLUMNS = 9, 13
#: Widths of pictures on a screen, in points: of all systems, and of costs.
WIDE, COST_WIDTH = 720.0, 520.0
#: Lower ends of the heat map's steps of retention, from the second on; step 5 is "as good as the reference".
_STEPS = (0.70, 0.80, 0.90, 0.95, 0.985, 1.015, 1.05)


def write_report(board: Scoreboard, path: Path | str, *, extra: ReportFacts | None = None, force: bool = False) -> None:
    """Write one HTML file with inline styles and figures; it asks for nothing from outside and runs no script.

    A file that is there is replaced only where `write_report` wrote it and it is unchanged, or with `force`.

    extra: what else the page says; `ReportFacts` lists it, and all of it is optional.
    """
    path = Path(path)
    write_texts(path.parent, {path.name: html(board, extra=extra)}, "write_report", force=force)


def html(board: Scoreboard, *, extra: ReportFacts | None = None) -> str:
    """The page that `write_report` writes."""
    from markupsafe import Markup

    from allround.evaluation.pictures import page_colours, page_style

    given: ReportFacts = extra or {}
    calibration_head, calibration_rows = calibration_table(board)
    page = template(
        Path(__file__).with_name("report.html.j2"),
        {
            "percent": percent,
            "count": count,
            "number": number_text,
            "duration": duration,
            "settings": settings_text,
            "breakable": breakable,
        },
        {"percent": percent, "span": span_text, "shown": shown, "better": better, "step": _step, "plural": plural},
    )
    return page.render(
        board=board,
        title=given.get("title") or "Scoreboard",
        answer=board.answer(),
        systems=board.systems,
        rivals=board.best != board.reference and any(c.other == board.best for c in board.comparisons),
        compared=_compared(board),
        undefined=any(cell.retention is None for cells in board.cells.values() for cell in cells.values()),
        key=_key(),
        retention=_retention_picture(board),
        score_tables=_parted(list(board.trained), SCORE_COLUMNS),
        heat_tables=_parted(list(board.trained), HEAT_COLUMNS),
        apart=_apart(board),
        figures=_cost_pictures(board),
        picture_style=Markup(page_style()),
        light_colours=Markup(page_colours()),
        dark_colours=Markup(page_colours(dark=True)),
        choices=_choices(given.get("choices", ())),
        tasks=_tasks(board, given.get("tasks", ())),
        workers=board.provenance.get("workers"),
        choice=board.notes.get("choice"),
        budget=given.get("budget") or board.notes.get("budget"),
        facts=_facts(board, given),
        commands=given.get("commands"),
        python=given.get("python"),
        errors=given.get("errors"),
        prompts=given.get("prompts"),
        prompt_scores=given.get("prompt_scores"),
        sharing=[(one, _uses_picture(one)) for one in given.get("sharing") or ()],
        routing=given.get("routing"),
        calibration_head=calibration_head,
        calibration_rows=calibration_rows,
        calibration_legend=calibration_legend(board),
        reliability=_reliability_picture(board),
    )


@dataclass(frozen=True)
class _Apart:
    """Tasks of a role that nothing was trained on, or that systems were adapted to: tables, and what they show."""

    role: str
    heading: str
    tables: list[tuple[list[str], list[list[str]]]]
    legend: str


def _apart(board: Scoreboard) -> list[_Apart]:
    """The tasks that nothing was trained on, by role."""
    found = []
    for role, heading in HEADINGS.items():
        if tasks := board.of_role(role):
            means = [transfer_table(board)] if role == HELD_OUT and board.transfer else []
            found.append(_Apart(role, heading, [scores_table(board, tasks), *means], LEGENDS[role]))
    if board.adapted:
        found.append(_Apart("adapted", HEADING, [adapted_table(board)], LEGEND))
    return found


def _compared(board: Scoreboard) -> list[tuple[str, Comparison | None, Comparison | None]]:
    """Each system with its comparisons: to the reference, and to the best."""
    found = []
    for system in board.systems:
        pair = board.comparison(system.name, board.reference or ""), board.comparison(system.name, board.best or "")
        if any(pair):
            found.append((system.name, *pair))
    return found


def _parted(names: list[str], most: int) -> list[list[str]]:
    """Names in as few parts as there are needed for `most` in each, of about the same size.

    >>> _parted(["a", "b", "c", "d"], 3)
    [['a', 'b'], ['c', 'd']]
    """
    parts = math.ceil(len(names) / most)
    ends = [round(len(names) * part / parts) for part in range(parts + 1)]
    return [names[start:end] for start, end in pairwise(ends)]


@dataclass(frozen=True)
class _Figure:
    title: str
    picture: PagePicture


def _retention_picture(board: Scoreboard) -> PagePicture | None:
    if not board.mean:
        return None
    return page_picture(lambda width: board.plot_retention(width=width), "Mean retention of each system", WIDE)


def _reliability_picture(board: Scoreboard) -> PagePicture | None:
    """That of the chosen system, where the board says how far its confidences can be trusted."""
    found = (board.calibration or {}).get(board.best or "", {})
    if not any(one.before or one.after for one in found.values()):
        return None
    return page_picture(lambda width: board.plot_reliability(width=width), f"Reliability of {board.best}", WIDE)


def _uses_picture(facts: SharingFacts) -> PagePicture | None:
    if not facts.uses:
        return None
    label = f"How much each task uses each module of {facts.system}"
    return page_picture(lambda width: draw_uses(facts, width), label, WIDE)


def _cost_pictures(board: Scoreboard) -> list[_Figure]:
    """Mean retention against each cost that is known of at least two systems."""
    from allround.evaluation.scoreboard.pictures import COSTS, drawn_by

    if not board.mean:
        return []
    titles: dict[CostName, str] = {"stored": "Parameters stored", "seconds": "Training time"}
    made = []
    for by, title in titles.items():
        if len(drawn_by(board, by)[0]) > 1:
            label = f"{title}: mean retention of each system against {COSTS[by]}"
            draw = partial(_draw_cost, board, by)
            made.append(_Figure(title, page_picture(draw, label, COST_WIDTH)))
    return made


def _draw_cost(board: Scoreboard, by: CostName, width: float) -> Figure:
    return board.plot_cost(by, width=width)


def _step(retention: float | None) -> int:
    """The colour step of a retention, 0 to 7."""
    return -1 if retention is None else sum(retention >= end for end in _STEPS)


def _key() -> list[tuple[int, str]]:
    ends = [f"{100 * end:g}" for end in _STEPS]
    middle = [f"{low} to {high}" for low, high in pairwise(ends)]
    return list(enumerate([f"below {ends[0]}", *middle, f"{ends[-1]} and more"]))


@dataclass(frozen=True)
class _TriedMethod:
    """A method's settings that were tried, the better ones first."""

    method: str
    rows: list[TriedSetting]


def _choices(choices: Iterable[TriedSetting]) -> list[_TriedMethod]:
    methods: dict[str, list[TriedSetting]] = {}
    for choice in choices:
        row: TriedSetting = {"settings": None, "validation": None, "chosen": False, **choice}
        methods.setdefault(choice.get("method", ""), []).append(row)
    return [_TriedMethod(method, sorted(rows, key=_validation, reverse=True)) for method, rows in methods.items()]


def _validation(row: TriedSetting) -> float:
    value = row.get("validation")
    return -math.inf if value is None else value


def _tasks(board: Scoreboard, given: Iterable[TaskFacts]) -> list[TaskFacts]:
    """Facts of each task: the board's, overlaid with those given."""
    by_name = {task.get("name"): task for task in given}
    found = []
    for name, definition in board.definitions.items():
        more: TaskFacts = by_name.get(name, {})
        rows = {split: board.n(name) if split == board.split else None for split in ("train", "validation", "test")}
        row: TaskFacts = {
            "name": name,
            "kind": definition.kind,
            "metric": definition.metric,
            "train": rows["train"],
            "validation": rows["validation"],
            "test": rows["test"],
            "labels": len(definition.labels) or None,
            **more,
        }
        notes = [*board.notes.get("tasks", {}).get(name, ()), *more.get("notes", ())]
        row["notes"] = list(dict.fromkeys(notes))
        found.append(row)
    return found


def _facts(board: Scoreboard, given: ReportFacts) -> list[tuple[str, str]]:
    """What else the reader may want to know of the run, in pairs."""
    facts = [("Seed", str(board.seed)), ("Rows measured on", f"{board.rows:,} of the {board.split} split")]
    if given.get("date"):
        facts.append(("Date", given["date"]))
    if given.get("machine"):
        facts.append(("Machine", given["machine"]))
    if precision := given.get("precision"):
        facts.append(("Matrix products in training", precision))
    if size := given.get("size"):
        facts.append(("Size of the base", size))
    if given.get("seconds_total"):
        facts.append(("Whole run", duration(given["seconds_total"])))
    if given.get("peak_memory"):
        facts.append(("Peak memory", f"{given['peak_memory'] / 2**30:.1f} GiB"))
    if given.get("versions"):
        facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in given["versions"].items())))
    facts.append(("Fingerprint", f"{board.fingerprint()[:16]} (of everything but timings)"))
    return facts
