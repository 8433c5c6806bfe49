"""The families of methods: where each one's files lie, and what a method of it is called in messages."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

#: family -> folders of the package, separated by spaces; the first part of each is a room
FAMILIES: dict[str, str] = {
    "merge": "merging/methods",
    "statistic": "merging/statistics/kinds",
    "learn": "merging/learn/presets",
    "parametrisation": "merging/learn/parametrisations",
    "objective": "merging/learn/objectives",
    "codec": "composition/residuals/codecs",
    "balance": "training/balance",
    "sample": "training/sample",
    "term": "training/terms",
    "share": "training/share",
    "shrink": "models/shrink",
    "bank": "models/share/bank",
    "gate": "models/share/gate",
    "route": "composition/route",
    "combine": "composition/combine",
    "demonstrations": "composition/demonstrations",
    "estimate": "transfer/estimate",
    "blend": "transfer/blend",
    "affinity": "transfer/affinity",
    "group": "transfer/group",
    "reduce": "transfer/reduce",
    "complete": "transfer/complete",
    "forecast": "transfer/forecast",
    "memory": "continual/memory",
    "head_policy": "continual/head",
    "grow": "continual/grow",
    "select": "continual/select",
    "strategy": "continual/strategies",
    "discover": "continual/discover",
    "kind": "tasks/kinds",
    "likelihood": "models/likelihoods",
    "head": "models/heads",
    "contrast": "models/contrast",
    "agree": "models/agree",
    "index": "models/index",
    "system": "models/systems composition/systems continual/systems",
    "modality": "tasks/modalities",
    "metric": "tasks/metrics",
    "measure": "evaluation/measures",
    "encoder": "models/encoders",
    "suite": "tasks/suites",
    "collection": "tasks/collections",
    "loop": "building/loops/methods",
}

#: What a method of a family is called in messages, where the family's name alone is not a noun for it.
_WORDS = {
    "route": "router",
    "combine": "combination",
    "demonstrations": "way to choose demonstrations",
    "estimate": "estimator of transfer",
    "blend": "blend of estimates",
    "group": "way to group tasks",
    "reduce": "way to choose tasks",
    "complete": "completion of scores",
    "share": "way to share",
    "shrink": "way to shrink",
    "merge": "merge method",
    "learn": "learned merge",
    "memory": "way to remember rows",
    "head_policy": "way to make heads",
    "grow": "way to grow",
    "select": "way to select",
    "discover": "way to find novel classes",
    "balance": "balancer",
    "sample": "sampling method",
    "contrast": "contrastive loss",
    "agree": "loss of scored pairs",
}


def word(family: str) -> str:
    """What a method of a family is called in messages.

    >>> word("balance"), word("codec")
    ('balancer', 'codec')
    """
    return _WORDS.get(family, family)


def room(family: str) -> str:
    """The room of the package that a family belongs to, or the first of several.

    >>> room("balance")
    'training'
    """
    return FAMILIES[family].partition("/")[0]


def builtin_file(family: str, name: str) -> Path:
    """Where the file of a built-in method lies, or would lie."""
    paths = [folder / f"{name}.py" for folder in _folders(family)]
    return next((path for path in paths if path.is_file()), paths[0])


def builtin_names(family: str) -> tuple[str, ...]:
    """The names of a family's built-in methods, sorted, from the file names alone."""
    found = [_listed(folder, folder.stat().st_mtime_ns) for folder in _folders(family) if folder.is_dir()]
    return found[0] if len(found) == 1 else tuple(sorted(name for names in found for name in names))


def _folders(family: str) -> list[Path]:
    return [PACKAGE / folder for folder in FAMILIES[family].split()]


@cache
def _listed(folder: Path, _mtime: int) -> tuple[str, ...]:
    """The methods that a folder holds; it is read again only when a file came or went."""
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))
