"""The columns that answers add to a table: their names, their values, and their types in Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from allround.core.errors import AllroundError
from allround.models.prediction.answerer import Asking
from allround.models.prediction.answers import Answered, TaskAnswers
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

if TYPE_CHECKING:
    from pyarrow import DataType

#: The column of what there is to say of a row.
NOTE = "note"


class AnswerColumns:
    """The columns of answers to some tasks.

    For a system of one task, or where one task is asked for: `prediction`, `confidence`. For several: `TASK_prediction`
    and so on. The last is `note`. nested: the probabilities of labels are one dictionary a row, in `scores`; otherwise
    each label has a column `score_LABEL`, and of the top ones `label_1`, `score_1` and so on. Sets of labels are in
    `set`, the ends of intervals in `low` and `high`. found: the system tells which task a row is of: that is in `task`,
    how sure it is in `task_confidence`, and the answers of the other tasks are empty.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskAnswers],
        asking: Asking,
        *,
        alone: bool,
        nested: bool,
        found: bool = False,
    ) -> None:
        self.definitions = {name: made.definition for name, made in tasks.items()}
        self.with_sets = {name for name, made in tasks.items() if made.sets is not None}
        self.asking, self.alone, self.nested, self.found = asking, alone, nested, found

    def check(self, names: Iterable[str], source: str) -> None:
        """An error where the table has a column of a name that an answer would have."""
        there = set(names)
        for definition in self.definitions.values():
            for name, _ in self._types(definition):
                self._check(name, there, source)
        for name in (*self._task_columns(), self.note):
            self._check(name, there, source)

    def _check(self, name: str, there: set[str], source: str) -> None:
        if name in there:
            raise AllroundError(
                f"add the answers to {source}",
                f"it has a column '{name}' already",
                "give --prefix new_ (prefix='new_' in Python), which the names of the answers' columns begin with",
            )

    @property
    def note(self) -> str:
        return f"{self.asking.prefix}{NOTE}"

    def values(self, answered: Answered) -> dict[str, Sequence[object]]:
        """The columns of a window."""
        found: dict[str, Sequence[object]] = {}
        if answered.found is not None:
            told = [(None, None) if one is None else (one.task, one.confidence) for one in answered.found]
            found.update(zip(self._task_columns(), zip(*told, strict=True), strict=True))
        for made in answered.tasks.values():
            names = [name for name, _ in self._types(made.definition)]
            found.update(zip(names, self._columns(made), strict=True))
        return {**found, self.note: answered.notes}

    def types(self) -> dict[str, DataType]:
        """The names and types of all columns; not of nested ones."""
        import pyarrow as pa

        arrow = {"text": pa.string(), "number": pa.float64(), "list": pa.list_(pa.string())}
        found = {name: arrow[sort] for d in self.definitions.values() for name, sort in self._types(d)}
        told = dict(zip(self._task_columns(), (arrow["text"], arrow["number"]), strict=False))
        return {**told, **found, self.note: arrow["text"]}

    def _task_columns(self) -> list[str]:
        """The columns of the task that a row is of, where the system tells it."""
        return [f"{self.asking.prefix}task", f"{self.asking.prefix}task_confidence"] if self.found else []

    def _types(self, definition: Definition) -> Iterator[tuple[str, str]]:
        """The names of a task's columns, and what is in them."""
        rules = kind(definition.kind)
        before = self.asking.prefix + ("" if self.alone else f"{definition.name}_")
        yield f"{before}prediction", "list" if rules.lists or rules.ranked else "number" if rules.numeric else "text"
        if definition.name in self.with_sets:
            yield from (
                ((f"{before}{end}", "number") for end in ("low", "high"))
                if rules.numeric
                else ((f"{before}set", "list"),)
            )
        if not rules.labelled:
            return
        yield f"{before}confidence", "number"
        if not self.asking.ranked:
            return
        if self.nested or rules.per_token:
            yield f"{before}scores", "text"
        elif self.asking.top is None:
            for label in definition.labels:
                yield f"{before}score_{label}", "number"
        else:
            for place in range(1, min(self.asking.top, len(definition.labels)) + 1):
                yield f"{before}label_{place}", "text"
                yield f"{before}score_{place}", "number"

    def _columns(self, made: TaskAnswers) -> Iterator[Sequence[object]]:
        """The values, in the order of `_types`."""
        yield made.predictions
        rules = kind(made.definition.kind)
        if made.sets is not None and rules.numeric:
            yield from ([None if one is None else one[end] for one in made.sets] for end in (0, 1))
        elif made.sets is not None:
            yield made.sets
        if not rules.labelled:
            return
        yield made.confidence
        if made.scores is None:
            return
        if self.nested:
            yield made.scores
        elif rules.per_token:
            yield [None if one is None else json.dumps(one, ensure_ascii=False) for one in made.scores]
        elif self.asking.top is None:
            tables = [one if isinstance(one, dict) else {} for one in made.scores]
            for number, label in enumerate(made.definition.labels):
                if made.labels is None:
                    yield [table.get(label) for table in tables]
                else:  # of the choices that a row has
                    own = [made.labels_of(place) for place in range(len(tables))]
                    yield [table.get(names[number]) if number < len(names) else None
                           for table, names in zip(tables, own, strict=True)]  # fmt: skip
        else:
            pairs = [list(one.items()) if isinstance(one, dict) else [] for one in made.scores]
            for place in range(min(self.asking.top, len(made.definition.labels))):
                for part in (0, 1):
                    yield [row[place][part] if place < len(row) else None for row in pairs]


def stands_alone(asking: Asking, definitions: Mapping[str, Definition]) -> bool:
    """Whether names of columns leave the task out: one is asked for, or the system has only one."""
    return len(definitions if asking.tasks is None else set(asking.tasks)) == 1
