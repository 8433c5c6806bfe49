"""Tables in Markdown, in LaTeX and on a console, of any text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from allround.core.words import printable

if TYPE_CHECKING:
    from rich.table import Table


def markdown_text(text: str) -> str:
    """Text that says in Markdown what it says plainly."""
    for sign in "\\`*#|":
        text = text.replace(sign, f"\\{sign}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("](", "]\\(")
    return " ".join(text.split())


def markdown_table(head: list[str], body: list[list[str]]) -> list[str]:
    """The lines of a table."""
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cell if cell == "---" else markdown_text(cell) for cell in row) + " |" for row in rows]


#: What LaTeX reads as something else than itself, and how it is written.
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "[": "{[}",
    "]": "{]}",
}


def latex_text(text: str) -> str:
    """Text that says in LaTeX what it says plainly.

    >>> print(latex_text("f1_macro & 5%"))
    f1\\_macro \\& 5\\%
    """
    return " ".join("".join(_LATEX.get(letter, letter) for letter in text).split())


def console_table() -> Table:
    """An empty table in ASCII, without borders."""
    from rich.box import Box
    from rich.table import Table

    ascii_box = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    return Table(box=ascii_box, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


def fitting_columns(
    head: list[str], body: list[list[str]], width: int, *, never: Iterable[str] = (), first_out: Iterable[str] = ()
) -> list[int]:
    """The columns that a console `width` letters wide has room for.

    never: titles of columns that are not for a console. first_out: titles of columns that are left out while the
    others are too wide, in this order.
    """
    kept = [i for i, title in enumerate(head) if title not in never]
    for title in first_out:
        if sum(column_width(head[i], body, i) + 2 for i in kept) - 2 > width:
            kept = [i for i in kept if head[i] != title]
    return kept


def fitted_table(head: list[str], body: list[list[str]], width: int, *, first_out: Iterable[str] = ()) -> Table:
    """A table for a console `width` letters wide, without some of its columns where it is too wide."""
    from rich.text import Text

    found = console_table()
    kept = fitting_columns(head, body, width, first_out=first_out)
    for place in kept:
        found.add_column(printable(head[place]), justify="right" if place else "left", no_wrap=True)
    for row in body:
        found.add_row(*(Text(printable(row[place])) for place in kept))
    return found


def column_width(title: str, body: list[list[str]], column: int) -> int:
    """Letters of the longest line in a column, its title included."""
    return max(len(line) for text in (title, *(row[column] for row in body)) for line in text.split("\n"))


def wrapped(name: str) -> str:
    """A name in lines of some ten letters, broken after "_", "-" and "+".

    >>> wrapped("weights_of_losses")
    'weights_\\nof_losses'
    """
    lines = [""]
    for part in name.replace("_", "_\n").replace("-", "-\n").replace("+", "+\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > 10:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def column_groups(names: Sequence[str], width: int, *, least: int) -> list[list[int]]:
    """Columns, by their places, in groups that fit into `width` letters; each is at least `least` wide.

    >>> column_groups(["one", "two", "three"], 20, least=8)
    [[0, 1], [2]]
    """
    groups: list[list[int]] = []
    used = 0
    for number, name in enumerate(names):
        wide = 2 + max(least, *(len(line) for line in wrapped(name).splitlines()))
        if not groups or used + wide > width:
            groups.append([])
            used = 0
        groups[-1].append(number)
        used += wide
    return groups
