"""A task: its definition and its three splits of encoded rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allround.core.files import hash_json, read_json, write_json
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Rows of one split: what goes in, and the encoded targets, in the same order."""

    inputs: list[tuple[Any, ...]]
    targets: Encoded

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int]) -> Split:
        """Only these rows, in this order."""
        targets = [self.targets[i] for i in rows]
        return Split(
            [self.inputs[i] for i in rows], np.array(targets) if isinstance(self.targets, np.ndarray) else targets
        )


@dataclass(frozen=True)
class Task:
    """A definition with data. `notes` are what the user should know of the data, and the report repeats."""

    definition: Definition
    splits: dict[str, Split]
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def content(self) -> str:
        """A hash of the definition and of every row."""
        parts: list[Any] = [self.definition.to_json()]
        for name in SPLITS:
            split = self.splits[name]
            digest = hashlib.sha256()
            for row, target in zip(split.inputs, kind(self.definition.kind).decode(split.targets, self.definition)):
                for value in row:
                    digest.update(_bytes(value) + b"\x1f")
                digest.update(repr(target).encode() + b"\x1e")
            parts.append([name, digest.hexdigest()])
        return hash_json(parts)


def _bytes(value: Any) -> bytes:
    if hasattr(value, "tobytes"):
        return repr(getattr(value, "size", "")).encode() + bytes(value.tobytes())
    return repr(value).encode()
