"""Rows as jobs read them: tasks from their folders, and inputs as an encoder prepares them; both are remembered."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from allround.core.files import hash_json
from allround.models.encoder import Encoder
from allround.tasks.task import Task


@lru_cache(maxsize=64)
def stored_task(folder: str) -> Task:
    """The task that a folder holds."""
    return Task.load(Path(folder))


_prepared: dict[tuple[str, str, str], list[Any]] = {}


def prepared_rows(encoder: Encoder, task_folder: str, split: str) -> list[Any]:
    """A split as the encoder prepares it, kept for the next job whose encoder prepares alike: nearly all of a build."""
    key = (hash_json(encoder.preparation), task_folder, split)
    if key not in _prepared:
        task = stored_task(task_folder)
        _prepared[key] = encoder.prepare(task.splits[split].inputs, task.definition)
    return _prepared[key]
