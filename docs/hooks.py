"""What the documentation takes from the code and the changelog when it is built, so that it cannot drift.

A hook of MkDocs fills in markers in pages; an extension of Griffe marks up docstrings.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allround.core import registry
from allround.core.entry import Parameter
from allround.core.families import FAMILIES

try:
    from griffe import Extension
except ImportError:  # the tests read this file without the documentation's own packages
    Extension = object  # type: ignore[assignment,misc]

ROOT = Path(__file__).resolve().parents[1]

_MARKER = re.compile(r"<!-- (methods|changelog|commands)(?:: ([\w ]+))? -->")
_INDEXED = re.compile(r"(?<![`\w])\w+\[\w+\]\[\w+\](?!`)")
_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the markers of a page: `<!-- methods: merge sample -->`, `<!-- changelog -->`, `<!-- commands -->`."""
    return _MARKER.sub(_fill, markdown)


def _fill(marker: re.Match[str]) -> str:
    what, words = marker.groups()
    if what == "changelog":
        return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if what == "commands":
        return _reference()
    families = words.split() if words else list(FAMILIES)
    return "\n\n".join(methods_table(family) for family in families)


def _reference() -> str:
    """The reference of the command line, by the file beside this one."""
    spec = importlib.util.spec_from_file_location("allround_docs_commands", Path(__file__).with_name("commands.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str = module.reference()
    return found


def methods_table(family: str) -> str:
    """The methods of one family as a Markdown table: below what a method does stand its options, and its source."""
    head = ["name", "what it does, its options, and its source"]
    rows = [
        [f"`{e.name}`", "<br>".join([e.summary, *map(_option, e.parameters), f"<small>{e.source}</small>"])]
        for e in registry.entries(family)
    ]
    return "\n".join(_row(cells) for cells in (head, ["---"] * len(head), *rows))


def _option(parameter: Parameter) -> str:
    searched = f"; searched: {', '.join(map(str, parameter.search))}" if parameter.search else ""
    default = "no default" if parameter.required else f"default {parameter.default}"
    return f"`{parameter.name}` ({default}{searched})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


class Docstrings(Extension):
    """Docstrings are plain text; mark what Markdown would read in another way."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = marked(obj.docstring.value)


def marked(text: str) -> str:
    """A docstring with its examples in fences (they are no quotations) and `a[b][c]` as code (it is no link)."""
    fenced = _EXAMPLE.sub(lambda found: f"```pycon\n{found.group()}\n```", text)
    parts = re.split(r"(^```.*?^```$)", fenced, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _INDEXED.sub(r"`\g<0>`", part) for part in parts)
