"""What a check finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.task import SPLITS, Task
from allround.tasks.values import Target, short

#: The readable targets of each split.
Targets: TypeAlias = dict[str, list[Target]]


@dataclass(frozen=True)
class Finding:
    """One thing about a task's data. code: what sort of thing it is, for programs; words; what may be done about it."""

    code: str
    words: str
    do: str

    def __str__(self) -> str:
        return f"{self.words}; {self.do}" if self.do else self.words


def targets_of(task: Task) -> Targets:
    """The readable targets of a task."""
    rules = kind(task.definition.kind)
    return {split: rules.decode(task.splits[split].targets, task.definition) for split in SPLITS}


def has_labels(definition: Definition) -> bool:
    """Whether the targets are labels."""
    return kind(definition.kind).labelled


def listed(values: Sequence[object], most: int = 4) -> str:
    """Some values in a message.

    >>> listed(["a", "b"]), listed(list("abcdef"), 2)
    ("'a', 'b'", "'a', 'b' and 4 more")
    """
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(short(value) for value in values[:most]) + more
