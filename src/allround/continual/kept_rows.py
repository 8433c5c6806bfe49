"""Rows of a model's tasks that are kept for when the next task comes: some to replay, some to judge by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from allround.continual.rows import Memory
from allround.core.errors import AllroundError
from allround.core.files import check_files, check_name, hash_files, read_settings, write_json
from allround.core.schema import STRICT, fitted
from allround.models.model import Model
from allround.tasks.task import Split, Task, row_key, text_row
from allround.tasks.values import Row

#: What says what lies in a folder of kept rows.
ABOUT = "memory.json"
_FORMAT = "allround memory 1"


@dataclass(frozen=True)
class KeptRows:
    """Training and validation rows of tasks, and marks of their test rows. A task's test split is empty.

    tested: for each task, a mark of each test row, by which the row is known again without being kept.
    """

    tasks: Mapping[str, Task] = field(default_factory=dict)
    tested: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(len(task.splits[split]) for task in self.tasks.values() for split in ("train", "validation"))

    def with_tasks(self, tasks: Sequence[Task], model: Model, budget: int, *, seed: int) -> KeptRows:
        """The same with some rows of further tasks, all within so many bytes: half for training rows, half for those
        to judge by; tasks share each half, and labels share a task's part. A task that is known already is replaced.

        model: knows all the tasks.
        """
        kept: dict[str, dict[str, Split]] = {}
        given = {**self.tasks, **{task.name: task for task in tasks}}
        for split in ("train", "validation"):
            held = [replace(task, splits={**task.splits, "train": task.splits[split]}, table=None, rule=None)
                    for task in given.values()]  # fmt: skip
            memory = Memory()
            if held and budget > 0:
                memory = memory.with_arrival(held, model, "balanced", budget // 2, seed=seed, name=split)
            for name, task in memory.tasks.items():
                kept.setdefault(name, {})[split] = replace(task.splits["train"], slices={})
        made = {}
        for name, splits in kept.items():
            task = given[name]
            none = task.splits["train"].take([])
            empty = dict.fromkeys(("train", "validation", "test"), none)
            made[name] = Task(task.definition, {**empty, **splits})
        return KeptRows(made, {**self.tested, **test_marks(tasks)})

    def write(self, folder: Path) -> None:
        """Write into an existing folder: a folder for each task, and what says what lies there."""
        for name, task in self.tasks.items():
            (folder / name).mkdir()
            task.write(folder / name)
        about = {
            "format": _FORMAT,
            "tasks": list(self.tasks),
            "files": hash_files(folder),
            "tested": {name: sorted(marks) for name, marks in self.tested.items()},
        }
        write_json(folder / ABOUT, about)

    @classmethod
    def load(cls, folder: Path) -> KeptRows:
        """What `write` wrote. Errors: a file that is missing, or not as it was written."""
        asked, do = f"read the remembered rows in {folder}", "copy the folder again, or give the old data: --old"
        if not (folder / ABOUT).is_file():
            found = f"it has no {ABOUT}" if folder.is_dir() else "there is no such folder"
            raise AllroundError(asked, found, "give the folder 'memory' that add-task wrote, or the old data: --old")
        try:
            about = fitted(_About, read_settings(folder / ABOUT))
            if about.format != _FORMAT:
                raise AllroundError(asked, f"its format is {about.format!r}, not {_FORMAT!r}", do)
            names = [check_name(name, "task") for name in about.tasks]
        except (TypeError, ValueError) as error:
            raise AllroundError(asked, f"{ABOUT} is damaged: {error}", do) from error
        listed = {f"{name}/{file}" for name in names for file in _FILES}
        if listed != set(about.files):
            raise AllroundError(asked, f"{ABOUT} does not list the files of its tasks", do)
        check_files(folder, about.files, asked, do)
        return cls(
            {name: Task.load(folder / name) for name in names},
            {name: frozenset(marks) for name, marks in about.tested.items()},
        )

    def tested_by(self, rows: Iterable[Row]) -> dict[str, list[int]]:
        """For each task of which some of these rows are test rows, their numbers."""
        marks = [mark(row) for row in rows]
        found = {name: [n for n, one in enumerate(marks) if one in known] for name, known in self.tested.items()}
        return {name: numbers for name, numbers in found.items() if numbers}


_FILES = ("definition.json", "train.arrow", "validation.arrow", "test.arrow")


@dataclass(frozen=True)
class _About:
    """What the file says."""

    __pydantic_config__ = STRICT

    format: str
    tasks: list[str]
    files: dict[str, str]
    tested: dict[str, list[str]]


def test_marks(tasks: Iterable[Task]) -> dict[str, frozenset[str]]:
    """The marks of the test rows of tasks that have any."""
    return {one.name: frozenset(map(mark, one.splits["test"].inputs)) for one in tasks if len(one.splits["test"])}


def mark(row: Row) -> str:
    """By what a row is known again: the same for equal inputs, and nothing of them can be read from it.

    >>> mark(("a text",)) == mark(("a text",)), len(mark(("another",)))
    (True, 32)
    """
    plain: Any = row_key(text_row(row))
    return hashlib.sha256(repr(plain).encode()).hexdigest()[:32]
