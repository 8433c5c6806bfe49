"""Tables of the changes between checkpoints, and all of it on a console."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from allround.core.progress import make_console
from allround.core.words import cosine_text, count, listed, number_text, printable, share_text
from allround.evaluation.tables import console_table
from allround.merging.diff.changes import HELD, KINDS, NOTICEABLE, TITLES, Changes, Mismatch, at
from allround.merging.diff.words import verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

#: Title, head and body.
Table = tuple[str, list[str], list[list[str]]]


def print_changes(found: Changes, console: Console | None = None) -> None:
    """Print the verdict and tables in ASCII that fit the console's width."""
    from rich.text import Text

    console = console or make_console()
    for line in verdict(found):
        console.print(Text(printable(f"- {line}")))
    tables = [models_table(found), groups_table(found, console.width)]
    if 2 < len(found.models) <= (console.width - 6) // 7:
        tables.append(pairs_table(found))
    for title, head, body in tables:
        console.print()
        console.print(Text(title, style="bold"))
        console.print(_rich_table(head, body))
    for what, rows in by_kind(found.differences):
        console.print()
        console.print(Text(what, style="bold"))
        for row in rows[:12]:
            console.print(Text(printable("  " + row)))
        if len(rows) > 12:
            console.print(Text(f"  and {len(rows) - 12} more"))
    console.print()
    for note in [*found.notes, *legend(found)]:
        console.print(Text(printable(note), style="dim"))


def by_kind(differences: Iterable[Mismatch]) -> Iterator[tuple[str, list[str]]]:
    """What differs besides values, a title and lines each."""
    differences = list(differences)
    for what in KINDS:
        lines = []
        for one in (d for d in differences if d.what == what):
            values: dict[str, list[str]] = {}
            for model, value in one.models.items():
                values.setdefault("absent" if value is None else value, []).append(model)
            if what == "missing":
                lines.append(f"{one.name}: in {listed(list(one.models))}")
                continue
            said = "; ".join(f"{value} in {listed(models)}" for value, models in values.items())
            base = "absent" if one.base is None and what == "setting" else one.base
            lines.append(f"{one.name}: {f'{base} in the base, ' if base else ''}{said}")
        if lines:
            yield TITLES[what], lines


def models_table(found: Changes) -> Table:
    part, k = found.total, len(found.models)
    head = ["", "model", "change", "entries", "largest"]
    head += ["kept"] if k > 1 else []
    head += ["rank", f"hold {share_text(HELD)}"] if found.spectrum else []
    body = []
    for i, name in enumerate(found.models):
        row = [
            str(i + 1),
            name,
            share_text(part.relative[i]),
            share_text(part.changed[i]),
            number_text(part.largest[i]),
        ]
        row += [share_text(found.kept[i])] if k > 1 else []
        row += [number_text(at(part.rank, i)), number_text(at(part.held_by, i))] if found.spectrum else []
        body.append(row)
    return f"Changes from {found.base} ({count(part.entries)} weights)", head, body


def groups_table(found: Changes, width: int) -> Table:
    k = len(found.models)
    wide = k <= max(2, (width - 52) // 7)
    head = ["", "weights", *([str(i + 1) for i in range(k)] if wide else ["least", "most"])]
    head += ["cosine", "conflict", "cancelled"] if k > 1 else []
    body = []
    for part in [*found.groups, found.total]:
        known = [r for r in part.relative if r is not None]
        ends = [share_text(min(known)), share_text(max(known))] if known else ["-", "-"]
        row = [part.name, count(part.entries), *([share_text(r) for r in part.relative] if wide else ends)]
        row += [cosine_text(part.cosine), share_text(part.conflict), share_text(part.cancelled)] if k > 1 else []
        body.append(row)
    what = "Change by model" if wide else "Change, least and most of the models"
    return f"{what}, and how the changes agree" if k > 1 else "Change by layer", head, body


def pairs_table(found: Changes) -> Table:
    """Of each pair of models the cosine of their changes, and below the diagonal the share of opposite signs."""
    k = range(len(found.models))
    body = [
        [str(i + 1), *(share_text(found.conflicts[i][j]) if j < i else cosine_text(found.cosines[i][j]) for j in k)]
        for i in k
    ]
    return "Cosine between the changes; below the diagonal, sign conflicts", ["", *(str(i + 1) for i in k)], body


def legend(found: Changes) -> list[str]:
    lines = ["Change: norm of the change / norm of the base's weights. Entries: share that is not the base's."]
    if len(found.models) > 1:
        lines[0] += " Kept: what an average of all keeps of it, along its own direction."
        lines.append(
            "Conflict: signs differ, among entries that two or more models change by over "
            f"{share_text(NOTICEABLE)} of the root mean square of their change in the tensor. Cancelled: "
            "1 - |sum| / sum of magnitudes. Cosine: mean of all pairs."
        )
    if found.spectrum:
        lines.append(
            "Rank: exp of the entropy of the normalised squared singular values; "
            f"hold {share_text(HELD)}: how many hold that share of the squared norm; medians over matrices."
        )
    return lines


def _rich_table(head: list[str], body: list[list[str]]) -> RichTable:
    from rich.text import Text

    table = console_table()
    for number, title in enumerate(head):
        left = number == 0 or title == "model"
        table.add_column(title, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in body:
        table.add_row(*(Text(printable(cell)) for cell in row), style="bold" if row[0] == "all" else None)
    return table
