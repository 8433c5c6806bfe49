"""The families of methods: where each one's files lie, and what a method of it is called in messages."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

#: family -> folder of the package; the first part of it is the room
FAMILIES: dict[str, str] = {
    "merge": "merging/methods",
    "statistic": "merging/statistics/kinds",
    "learn": "merging/learn/presets",
    "parametrisation": "merging/learn/parametrisations",
    "objective": "merging/learn/objectives",
    "codec": "composition/residuals/codecs",
    "balance": "training/balance",
    "sample": "training/sample",
    "kind": "tasks/kinds",
    "modality": "tasks/modalities",
    "metric": "tasks/metrics",
    "encoder": "models/encoders",
    "suite": "tasks/suites",
    "loop": "building/loops/methods",
}

#: What a method of a family is called in messages, where the family's name alone is not a noun for it.
_WORDS = {"merge": "merge method", "learn": "learned merge", "balance": "balancer", "sample": "sampling method"}


def word(family: str) -> str:
    """What a method of a family is called in messages.

    >>> word("balance"), word("codec")
    ('balancer', 'codec')
    """
    return _WORDS.get(family, family)


def room(family: str) -> str:
    """The room of the package that a family belongs to.

    >>> room("balance")
    'training'
    """
    return FAMILIES[family].partition("/")[0]


def builtin_file(family: str, name: str) -> Path:
    """Where the file of a built-in method lies, whether it exists or not."""
    return PACKAGE / FAMILIES[family] / f"{name}.py"


def builtin_names(family: str) -> tuple[str, ...]:
    """The names of a family's built-in methods, sorted, from the file names alone."""
    folder = PACKAGE / FAMILIES[family]
    return _listed(folder, folder.stat().st_mtime_ns) if folder.is_dir() else ()


@cache
def _listed(folder: Path, _mtime: int) -> tuple[str, ...]:
    """The methods that a folder holds; it is read again only when a file came or went."""
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))
