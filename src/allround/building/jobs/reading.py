"""What a language model reads of the rows of tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from allround.building.jobs.rows import stored_task
from allround.core.pieces import Piece
from allround.models.base import load_encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.reading import read_prompt, read_rows
from allround.tasks.task import SPLITS

#: The most rows of a split that are read.
MOST = 2000


def read_tasks(piece: Piece, base: str, tasks: Sequence[str], sort: str | None) -> None:
    """For each task a prompt as the base reads it, and how long the rows of its splits are. sort: of all heads."""
    started = time.perf_counter()
    with piece.make() as (_, facts):
        encoder = load_encoder(base)
        assert isinstance(encoder, LanguageModel)
        found: dict[str, Mapping[str, object]] = {}
        for task in map(stored_task, tasks):
            definition = encoder.headed(task.definition, sort or encoder.head(task.definition))
            splits = {name: task.splits[name] for name in SPLITS if len(task.splits[name])}
            found[definition.name] = {
                "prompt": asdict(read_prompt(encoder, definition, next(iter(splits.values())))),
                "splits": {
                    name: asdict(read_rows(encoder, definition, rows.take(range(min(MOST, len(rows))))))
                    for name, rows in splits.items()
                },
            }
        facts["tasks"] = found
        facts["longest"] = encoder.max_length
        facts["seconds"] = time.perf_counter() - started
