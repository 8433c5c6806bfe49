"""One label against the rest: which label a metric is of, and who has it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from allround.core.errors import AllroundError, suggestion
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind


def has_label(encoded: Encoded, place: int, definition: Definition) -> NDArray[np.bool_]:
    """Whether each example has the label at a place: (n,)."""
    values = np.asarray(encoded)
    found: NDArray[np.bool_] = values[:, place] == 1 if kind(definition.kind).lists else values == place
    return found


def place_of(label: str | None, definition: Definition, metric: str) -> int | None:
    """The place of the label that a metric is of; where none is named, that of the second of two labels that exclude
    each other, and None for tasks of more labels. Errors: a label that the task does not have."""
    labels = definition.labels
    if label is None:
        return 1 if len(labels) == 2 and not kind(definition.kind).lists else None
    if label not in labels:
        raise AllroundError(
            f"score the task '{definition.name}' by '{metric}:label={label}'",
            f"it has no label '{label}'",
            suggestion(label, labels),
        )
    return labels.index(label)


def each_label(
    targets: Encoded, scores: Encoded, definition: Definition, only: int | None
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """For each label, or only for the one at a place: who has it (n,), and its probability (n,)."""
    table = np.asarray(scores, dtype=np.float64)
    for place in range(len(definition.labels)) if only is None else [only]:
        yield has_label(targets, place, definition), table[:, place]
