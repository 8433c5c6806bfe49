"""Rows without targets, which join the training rows of a task with the answers of a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from allround.core.errors import AllroundError
from allround.core.words import listed, plural
from allround.models.prediction.cells import read_inputs
from allround.models.system import System
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.modality import modality_of
from allround.tasks.sources.image_folder import IMAGES
from allround.tasks.sources.stream import Objects, Window, read_windows
from allround.tasks.task import Split, Task, row_key
from allround.tasks.values import Row

#: A CSV, TSV, JSONL, JSON, Parquet or text file, a folder of images, or rows as dictionaries.
Source: TypeAlias = Path | str | Sequence[Mapping[str, object]]


def read_unlabelled(definition: Definition, source: Source) -> list[Row]:
    """The rows of inputs of a task in a file, or in a folder of images.

    Errors: a file without the task's columns or without rows; a row that the task cannot read.

    >>> from allround.tasks.definition import Definition
    >>> task = Definition("mood", "classification", ("text",), "text", "accuracy", ("bad", "good"))
    >>> read_unlabelled(task, [{"text": "so good"}, {"text": "how sad"}])
    [('so good',), ('how sad',)]
    """
    shown = "rows" if not isinstance(source, (Path, str)) else f"'{source}'"
    asked, found = f"read {shown} as unlabelled rows of the task '{definition.name}'", list[Row]()
    for window in _windows(definition, source, asked):
        lacking = [name for name in definition.inputs if not window.has(name)]
        if lacking and len(window):
            raise AllroundError(asked, f"there is no column {listed(lacking)}; there is {listed(list(window.names))}",
                                f"give rows with {listed(list(definition.inputs))}")  # fmt: skip
        made = read_inputs(definition, window)
        wrong = {**made.empty, **made.broken}
        if wrong:
            place = min(wrong)
            raise AllroundError(asked, f"row {window.first + place} (counted from 0): {wrong[place]}",
                                "correct the row, or remove it")  # fmt: skip
        found += made.rows
    if not found:
        raise AllroundError(asked, "there are none", "give rows, or leave --unlabelled out")
    return found


def new_rows(task: Task, rows: Sequence[Row]) -> list[Row]:
    """The rows that no split of a task has yet, each once."""
    known = {row_key(row) for split in task.splits.values() for row in split.inputs}
    found = {row_key(row): row for row in rows}
    return [row for key, row in found.items() if key not in known]


def with_answered(task: Task, rows: Sequence[Row], teacher: System, how: str) -> Task:
    """A task with further training rows, whose targets are the answers of a teacher. how: they came, for a note. The
    rows are of no table, so that the task is of none either."""
    split, rules = task.splits["train"], kind(task.definition.kind)
    answers = teacher.answers(task.name, rows).predictions
    targets = rules.encode(rules.decode(answers, teacher.definition(task.name)), task.definition)
    both = ([*split.targets, *targets] if isinstance(split.targets, list)
            else np.concatenate([np.asarray(split.targets), np.asarray(targets)]))  # fmt: skip
    note = f"{plural(len(rows), 'training row')} more were {how}, and answered by the teacher"
    train = Split([*split.inputs, *rows], both)
    return replace(task, splits={**task.splits, "train": train}, notes=(*task.notes, note), table=None)


def _windows(definition: Definition, source: Source, asked: str) -> Iterator[Window]:
    if not isinstance(source, (Path, str)):
        yield Objects(0, list(source))
    elif Path(source).is_dir():
        if not modality_of(definition).files:
            raise AllroundError(asked, "it is a folder, and the task reads no images", "give a file of rows")
        images = sorted(path for path in Path(source).rglob("*") if path.suffix.lower() in IMAGES)
        yield Objects(0, [{definition.inputs[0]: str(path)} for path in images])
    else:
        yield from read_windows(source, line=definition.inputs[0])
