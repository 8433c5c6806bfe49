"""Models put together from the folders that hold their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from allround.models.base import load_encoder
from allround.models.encoder import Encoder
from allround.models.head_files import HEADS, read_heads
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task


def assemble(encoder: str, heads: Mapping[str, str], tasks: Sequence[Task]) -> MultiTaskModel:
    """A model from an encoder folder and, for each task, the folder that holds its head."""
    return with_heads(load_encoder(encoder), heads, tasks)


def with_heads(encoder: Encoder, heads: Mapping[str, str], tasks: Sequence[Task]) -> MultiTaskModel:
    """A model from an encoder and, for each task, the folder that holds its head."""
    model = MultiTaskModel(encoder, {})
    for task in tasks:
        model.add_heads({task.name: task.definition}, read_heads(Path(heads[task.name]) / HEADS))
    return model.eval()
