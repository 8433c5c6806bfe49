"""The memory of a stream: rows of past arrivals, within a number of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allround.continual.features import row_features
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.model import Model
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.modality import modality_of
from allround.tasks.task import SPLITS, Split, Task

#: Columns beside the rows of a memory: the group that a row belongs to, its rank there, and the arrival it came with.
GROUP, RANK, ARRIVAL = "memory group", "memory rank", "arrival"


@dataclass(frozen=True)
class Ranking:
    """Which rows a memory keeps: each group gets the same number of bytes, and within it the lowest ranks stay.

    groups: a name for each row. ranks: (n,); those of rows that came earlier are never computed again.
    """

    groups: Sequence[str]
    ranks: NDArray[np.float64]


@dataclass(frozen=True)
class ArrivedRows:
    """The training rows of a task that arrived, as a way to keep rows sees them."""

    task: Task
    model: Model
    seed: int

    def __len__(self) -> int:
        return len(self.task.splits["train"])

    @property
    def random(self) -> np.random.Generator:
        """A generator of this task's own: the same in each run."""
        return np.random.default_rng(seed_of(self.seed, "memory", self.task.name))

    @property
    def labels(self) -> list[str]:
        """The label of each row, or the task's name where rows have no single label."""
        definition, targets = self.task.definition, self.task.splits["train"].targets
        if kind(definition.kind).lists or not kind(definition.kind).fixed_labels:
            return [""] * len(self)
        return [str(one) for one in kind(definition.kind).decode(targets, definition)]

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """What the model makes of the rows, (n, d)."""
        return row_features(self.model, self.task.name, self.task.splits["train"].inputs)


@dataclass(frozen=True)
class Memory:
    """Rows of past tasks, by the task's name. Only their training split holds rows."""

    tasks: Mapping[str, Task] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(len(task.splits["train"]) for task in self.tasks.values())

    @property
    def bytes(self) -> int:
        """Bytes of the inputs and targets, as Arrow holds them; names and ranks are not counted."""
        return sum(int(row_bytes(task.definition, task.splits["train"]).sum()) for task in self.tasks.values())

    def with_arrival(
        self, arrived: Sequence[Task], model: Model, way: str, budget: int | None, *, seed: int, name: str
    ) -> Memory:
        """The memory after an arrival. way: a method of the family `memory`. budget: bytes; None keeps all."""
        merged = dict(self.tasks)
        for task in arrived:
            split = task.splits["train"]
            view = ArrivedRows(task, model, seed_of(seed, name))
            ranking: Ranking = registry.load("memory", way)(view)
            marks = {GROUP: list(ranking.groups), RANK: [f"{rank:.17g}" for rank in ranking.ranks],
                     ARRIVAL: [name] * len(split)}  # fmt: skip
            new = replace(split, rows=None, keys=(), slices=marks)
            if task.name in merged:
                new = joined(merged[task.name].as_defined(task.definition).splits["train"], new)
            merged[task.name] = only_training(task, new)
        return Memory(merged) if budget is None else Memory(_within(merged, budget))

    def write(self, folder: Path) -> None:
        for name, task in self.tasks.items():
            (folder / name).mkdir(parents=True)
            task.write(folder / name)

    @classmethod
    def load(cls, folder: Path) -> Memory:
        """Errors: a file that is damaged."""
        places = sorted(folder.iterdir()) if folder.is_dir() else []
        return cls({place.name: Task.load(place) for place in places})


def only_training(task: Task, split: Split) -> Task:
    """A task with these training rows, and no others."""
    empty = split.take([])
    return replace(task, splits={name: split if name == "train" else empty for name in SPLITS}, table=None, rule=None)


def joined(one: Split, other: Split) -> Split:
    """The rows of two splits, one after the other; columns beside them that only one has are left out."""
    targets = (np.concatenate([one.targets, other.targets]) if isinstance(one.targets, np.ndarray)
               else [*one.targets, *other.targets])  # fmt: skip
    slices = {name: [*values, *other.slices[name]] for name, values in one.slices.items() if name in other.slices}
    return Split([*one.inputs, *other.inputs], targets, None, slices)


def row_bytes(definition: Definition, split: Split) -> NDArray[np.int64]:
    """What each row takes: its inputs as Arrow holds them, and 8 bytes for each number of its target."""
    rules = modality_of(definition)
    sizes = np.zeros(len(split), dtype=np.int64)
    for row, (values, target) in enumerate(zip(split.inputs, split.targets, strict=True)):
        sizes[row] = sum(rules.to_arrow([value]).nbytes for value in values) + 8 * max(1, np.size(target))
    return sizes


def _within(tasks: Mapping[str, Task], budget: int) -> dict[str, Task]:
    """Tasks whose rows take at most so many bytes: groups share them evenly, and small ones leave theirs to others."""
    sizes = {name: row_bytes(task.definition, task.splits["train"]) for name, task in tasks.items()}
    groups: dict[str, list[tuple[float, str, int]]] = {}
    for name, task in tasks.items():
        marks = task.splits["train"].slices
        for row, (group, rank) in enumerate(zip(marks[GROUP], marks[RANK], strict=True)):
            groups.setdefault(str(group), []).append((float(str(rank)), name, row))
    kept: dict[str, list[int]] = {name: [] for name in tasks}
    left, waiting = budget, sorted(groups.values(), key=lambda rows: sum(sizes[n][row] for _, n, row in rows))
    for number, rows in enumerate(waiting):
        share = left // (len(waiting) - number)
        for _, name, row in sorted(rows):
            if sizes[name][row] > share:
                break
            share -= sizes[name][row]
            left -= int(sizes[name][row])
            kept[name].append(row)
    if not any(kept.values()):
        raise AllroundError(f"remember rows in {budget:,} bytes", "not one row of each group fits",
                            "give the memory more bytes")  # fmt: skip
    return {name: only_training(tasks[name], tasks[name].splits["train"].take(sorted(rows)))
            for name, rows in kept.items() if rows}  # fmt: skip
