"""Rows as jobs read them: tasks from their folders, and inputs as an encoder prepares them; both are remembered."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from allround.core.files import hash_json
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task


@lru_cache(maxsize=64)
def stored_task(folder: str) -> Task:
    """The task that a folder holds."""
    return Task.load(Path(folder))


def without_test(task: Task) -> Task:
    """A task without its test rows."""
    return replace(task, splits={**task.splits, "test": task.splits["test"].take([])})


_prepared: dict[tuple[str, str, str], list[Any]] = {}


def prepared_rows(model: MultiTaskModel, task_folder: str, split: str) -> list[Any]:
    """A split as a model prepares it, kept for the next job whose model prepares alike: nearly all of a build."""
    task = stored_task(task_folder)
    definition = model.definition(task.name)
    key = (hash_json([model.encoder.preparation, model.encoder.head(definition)]), task_folder, split)
    if key not in _prepared:
        _prepared[key] = model.encoder.prepare(task.splits[split].inputs, definition)
    return _prepared[key]
