"""The training rows of a task that estimators look at, and what stands in them to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from allround.core.files import hash_json
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.task import row_key
from allround.tasks.values import Row
from allround.transfer.matrix import Values

#: The class of each row.
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaskRows:
    """Training rows of a task, their encoded targets, and how many training rows the task has in all.

    Where a task is per word, words stand for rows: `n` below counts them.

    >>> answer = Definition("t", "classification", ("x",), "text", "accuracy", ("a", "b", "c"))
    >>> TaskRows(answer, [("one",), ("two",), ("three",)], np.array([0, 2, 0]), 50).columns.tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """

    definition: Definition
    inputs: Sequence[Row]
    targets: Encoded
    size: int

    def some(self, most: int) -> TaskRows:
        """At most so many of the rows, chosen by what stands in them: the same ones in whatever order they come."""
        if len(self.inputs) <= most:
            return self
        plain = [np.asarray(target).tolist() for target in self.targets]
        keys = [hash_json([repr(row_key(row)), target]) for row, target in zip(self.inputs, plain, strict=True)]
        chosen = sorted(range(len(keys)), key=keys.__getitem__)[:most]
        targets = [self.targets[place] for place in chosen]
        return replace(
            self,
            inputs=[self.inputs[place] for place in chosen],
            targets=np.array(targets) if isinstance(self.targets, np.ndarray) else targets,
        )

    @cached_property
    def classes(self) -> Classes | None:
        """The class of each row, (n,); None where rows have no class, or several, or all the same."""
        rules = kind(self.definition.kind)
        if not rules.fixed_labels or not rules.exclusive or not self.inputs:
            return None
        found = np.concatenate([np.atleast_1d(target) for target in self.targets]).astype(np.int64)
        return found if (found != found[0]).any() else None

    @cached_property
    def columns(self) -> Values | None:
        """What a linear model would predict, (n, k): 0 and 1 for each label that some rows have and others have not;
        numbers standardised; None where nothing of this sort differs between rows."""
        rules = kind(self.definition.kind)
        if self.classes is not None:
            return np.asarray(self.classes[:, None] == np.unique(self.classes), dtype=np.float64)
        if not self.inputs or rules.for_language_models or rules.ranked or (rules.exclusive and not rules.numeric):
            return None
        found = np.array(self.targets, dtype=np.float64).reshape(len(self.inputs), -1)
        found = found[:, (found != found[0]).any(0)]
        if rules.numeric:
            found = (found - found.mean(0)) / found.std(0)
        return found if found.size else None


def text_of(definition: Definition) -> str:
    """What a task says of itself: its name, instruction, prompt and labels.

    >>> text_of(Definition("is_kind", "classification", ("x",), "text", "accuracy", ("no", "yes")))
    'is kind. no, yes'
    """
    prompt = definition.prompt.templates[0] if definition.prompt is not None and definition.prompt.templates else None
    parts = (definition.name.replace("_", " "), definition.instruction, prompt, ", ".join(definition.labels))
    return ". ".join(part for part in parts if part)
