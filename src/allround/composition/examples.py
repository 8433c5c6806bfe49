"""Labelled rows that a language model may be shown, and the bank that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.reading import parse_json, read_text
from allround.core.schema import STRICT, fitted
from allround.tasks.definition import Definition
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


#: The file of a bank.
EXAMPLES = "demonstrations.jsonl"


def write_examples(folder: Path, bank: Bank) -> None:
    """Write a bank into a folder, an example a line."""
    lines = [json.dumps(asdict(one), ensure_ascii=False) for one in bank.examples]
    (folder / EXAMPLES).write_text("\n".join([*lines, ""]), encoding="utf-8")


def read_examples(folder: Path, definitions: Mapping[str, Definition]) -> Bank:
    """The inverse of `write_examples`. Errors: what is no example of these tasks."""
    lines = [line for line in read_text(folder / EXAMPLES, what="file of examples").split("\n") if line.strip()]
    try:
        bank = Bank([fitted(Example, parse_json(line)) for line in lines])
        for one in bank.examples:
            if one.task not in definitions or len(one.inputs) != len(definitions[one.task].inputs):
                raise ValueError(f"an example is of the task {one.task!r} with {len(one.inputs)} inputs")
    except ValueError as error:
        raise AllroundError(f"read the examples in {folder}", f"{EXAMPLES} is damaged: {error}",
                            "copy the folder again, whole") from error  # fmt: skip
    return bank
