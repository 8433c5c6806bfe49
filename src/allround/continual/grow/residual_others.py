"""residual_others: as residual; each arrival also learns what remembered rows of others are like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from allround.continual.grow.residual import Residual
from allround.continual.parts import Part, mixes
from allround.continual.rows import joined
from allround.continual.strategy import Strategy
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings

#: The label of remembered rows that are not of the arrival.
OTHER = "@other"


@method(source="TPL: Lin et al., ICLR 2024, arXiv:2309.15048, section 4.1", exact=True)
class ResidualOthers(Residual):
    """Remembered rows of the task that have other labels are learned as one label more, which is never answered. share,
    rank, rate: as for `residual`."""

    def __init__(
        self, encoder: Encoder, strategy: Strategy, *, share: str = "lora", rank: int = 8, rate: float = 1e-3
    ) -> None:
        super().__init__(encoder, strategy, share=share, rank=rank, rate=rate)

    @classmethod
    def refusal(cls, model: MultiTaskModel, strategy: Strategy) -> str | None:
        return "it tells arrivals apart, and a finished model is none"

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        old = self.memory.tasks
        own = {name: with_others(task, old[name]) if name in old else task for name, task in arrived.items()}
        return super().extend(own, number, settings, seed=seed, scratch=scratch)


def with_others(task: Task, old: Task) -> Task:
    """A task with a label more, `OTHER`, for the remembered rows whose labels are not its own; they are repeated until
    there are about as many of them as of its own rows. The same task where there are none."""
    split, known, labels = old.splits["train"], old.definition.labels, task.definition.labels
    rows = [row for row, target in enumerate(split.targets) if known[int(target)] not in labels]
    if not rows or not mixes(task.definition):
        return task
    new = task.splits["train"]
    kept = replace(split, slices={}).take(rows * max(1, round(len(new) / len(rows))))
    kept = replace(kept, targets=np.full(len(kept), len(labels), dtype=np.int64))
    both = joined(replace(new, slices={}, rows=None, keys=()), kept)
    definition = replace(task.definition, labels=(*labels, OTHER), weights=())
    return replace(task, definition=definition, splits={**task.splits, "train": both}, table=None)
