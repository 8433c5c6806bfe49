"""Labelled rows that a language model may be shown, and the bank that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allround.core.schema import STRICT
from allround.tasks.prompt import shown
from allround.tasks.values import Row


@dataclass(frozen=True)
class Example:
    """A labelled row that may be shown. inputs: as text, by column. answer: what a model should say."""

    __pydantic_config__ = STRICT

    task: str
    inputs: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        """The inputs as one text, by which it is found."""
        return "\n".join(self.inputs)


def row_text(row: Row) -> str:
    """The inputs of a row as one text, as `Example.text` is.

    >>> row_text(("Is it late?", 3.0))
    'Is it late?\\n3'
    """
    return "\n".join(shown(value) for value in row)


class Bank:
    """The examples of all tasks, in the order in which a way to choose speaks of them."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = tuple(examples)
        self._of: dict[str, list[int]] = {}
        for number, one in enumerate(self.examples):
            self._of.setdefault(one.task, []).append(number)

    @property
    def tasks(self) -> list[str]:
        return list(self._of)

    def of(self, task: str) -> list[int]:
        """The numbers of a task's examples."""
        return self._of.get(task, [])

    def others(self, task: str) -> list[int]:
        """The numbers of the examples of all other tasks."""
        return [number for number, one in enumerate(self.examples) if one.task != task]

    def texts(self, numbers: Sequence[int]) -> list[str]:
        return [self.examples[number].text for number in numbers]
