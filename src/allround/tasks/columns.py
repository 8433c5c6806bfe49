"""A user's rows, in every form that `make_task` takes, as columns of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from allround.core.errors import suggestion
from allround.core.reading import image_errors
from allround.tasks.cells import are_plain
from allround.tasks.question import Question
from allround.tasks.task import SPLITS
from allround.tasks.values import is_empty, is_missing, is_number, native, plain, short

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame


@dataclass(frozen=True)
class Column:
    """The values of one column, and the names of its codes where the source has them.

    rows: the row of each value, where some rows were taken out.
    """

    values: list[object]
    names: tuple[str, ...] | None = None
    rows: list[int] | None = None

    def row(self, index: int) -> int:
        """The row that a value stands in."""
        return index if self.rows is None else self.rows[index]

    def take(self, rows: list[int]) -> Column:
        """The values of these rows only."""
        return Column([self.values[i] for i in rows], self.names, [self.row(i) for i in rows])

    def labels(self) -> list[str]:
        """The values as text: the names of codes, where the source has them."""
        return named_codes([plain(value) for value in self.values], self.names)

    def is_gone(self, row: int) -> bool:
        """Whether the value is missing, as a whole."""
        value = self.values[row]
        return is_missing(value) or is_empty(value) or (self.names is not None and is_number(value, -1))

    def is_blank(self, row: int) -> bool:
        """Whether the value is missing, or a text without any words."""
        value = self.values[row]
        return is_missing(value) or (isinstance(value, str) and not value.strip())

    def lacks(self, row: int) -> bool:
        """Whether the value is missing, in whole or in part."""
        value = self.values[row]
        if isinstance(value, (list, tuple, np.ndarray)):
            return any(is_missing(v) or is_empty(v) for v in value)
        return self.is_gone(row)


def named_codes(raw: list[str], names: tuple[str, ...] | None) -> list[str]:
    """The names of codes where the source has them; other values as they are.

    >>> named_codes(["1", "0", "7"], ("no", "yes"))
    ['yes', 'no', '7']
    """
    if names is None:
        return raw
    return [names[int(v)] if v.lstrip("-").isdigit() and 0 <= int(v) < len(names) else v for v in raw]


#: The names of the columns that a form of rows has, and a function that reads one.
_Reader: TypeAlias = tuple[list[Hashable], Callable[[str], Column]]


@dataclass(frozen=True)
class Data:
    """The columns that a task needs, and the number of each row: train, validation and test follow each other."""

    columns: dict[str, dict[str, Column]]
    numbers: dict[str, list[int]]

    def without_gaps(self, question: Question, notes: list[str]) -> Data:
        """The same without rows whose input is missing or blank. notes: how many they are is added."""
        columns, numbers = dict(self.columns), dict(self.numbers)
        for split, found in self.columns.items():
            count = len(numbers[split])
            there = [i for i in range(count) if not any(found[name].is_blank(i) for name in question.inputs)]
            if not there:
                raise question.fail(
                    f"the input of {split} is missing in all {count} rows",
                    "fill it in" if split == "train" else "fill it in, or leave the split out",
                )
            if len(there) < count:
                notes.append(f"{count - len(there)} of {count} {split} rows have no input and are left out")
                columns[split] = {name: column.take(there) for name, column in found.items()}
                numbers[split] = [numbers[split][i] for i in there]
        return Data(columns, numbers)


def read_data(question: Question, data: Mapping[str, object], notes: list[str]) -> Data:
    """Read the columns of a task from its splits. notes: what the user should know is added to them.

    A split other than train whose targets are all -1, as in published data with hidden answers, is left out.
    """
    if not isinstance(data, Mapping) or not data:
        raise question.fail(
            f"the data are {short(data)}", "give a mapping of splits to rows: {'train': rows, 'test': rows}"
        )
    for split in data:
        if split not in SPLITS:
            raise question.fail(f"there is no split {short(split)}", suggestion(str(split), SPLITS))
    if "train" not in data:
        raise question.fail(
            f"there is no train split, only {' and '.join(data)}", "give the rows to train on as 'train'"
        )
    read = {split: _columns(question, split, data[split]) for split in SPLITS if split in data}
    numbers: dict[str, list[int]] = {}
    start = 0
    for split, columns in read.items():
        count = len(columns[question.inputs[0]].values)
        numbers[split] = list(range(start, start + count))
        start += count
    for split in ("validation", "test"):
        if split in read and all(_is_hidden(read[split][name]) for name in question.targets):
            del read[split]
            notes.append(f"{split} has no targets (every label is -1), so it is left out")
    return Data(read, numbers)


def _is_hidden(column: Column) -> bool:
    return column.names is not None and bool(column.values) and all(value == -1 for value in column.values)


def _columns(question: Question, split: str, rows: object) -> dict[str, Column]:
    known, column = _reader(question, split, rows)
    wanted = question.columns
    twice = [c for c, n in Counter(known).items() if n > 1]
    if twice:
        raise question.fail(f"{split} has {known.count(twice[0])} columns called '{twice[0]}'", "rename all but one")
    for name in wanted if known else ():
        if name not in known:
            raise question.fail(
                f"{split} has no column '{name}'", suggestion(name, [c for c in known if isinstance(c, str)])
            )
    read = {name: column(name) for name in wanted} if known else {}
    found = {
        name: Column(c.values if are_plain(c.values) else [native(v) for v in c.values], c.names)
        for name, c in read.items()
    }
    lengths = {name: len(c.values) for name, c in found.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"'{name}' has {n}" for name, n in lengths.items())
        raise question.fail(
            f"the columns of {split} do not have the same length: {listed}", "give one value a row in each"
        )
    if not found or not next(iter(lengths.values())):
        raise question.fail(f"{split} has no rows", "give it rows, or leave the split out")
    return found


def _reader(question: Question, split: str, rows: object) -> _Reader:
    """The names of the columns, and a function that reads one."""
    if hasattr(rows, "features") and hasattr(rows, "column_names"):
        dataset: Dataset = rows
        return list(dataset.column_names), lambda name: _dataset_column(question, split, dataset, name)
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):
        frame: DataFrame = rows
        return list(frame.columns), lambda name: Column(frame[name].tolist())
    if isinstance(rows, Mapping):
        columns: Mapping[str, object] = rows
        return list(columns), lambda name: _mapped_column(question, split, name, columns[name])
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise question.fail(f"row {number} of {split} is {short(row)}", "give rows as dictionaries")
        known = list(dict.fromkeys(c for row in rows for c in row))
        return known, lambda name: Column([row.get(name) for row in rows])
    raise question.fail(
        f"the rows of {split} are a {type(rows).__name__}",
        "give a list of dictionaries, a dictionary of columns, a DataFrame or a Dataset",
    )


def _mapped_column(question: Question, split: str, name: str, values: object) -> Column:
    if isinstance(values, str) or not isinstance(values, Iterable) or not hasattr(values, "__len__"):
        raise question.fail(f"column '{name}' of {split} is {short(values)}", "give a list of values")
    return Column(list(values))


def _dataset_column(question: Question, split: str, rows: Dataset, name: str) -> Column:
    feature = rows.features[name]
    if type(feature).__name__ == "Image":
        images: list[object] = []
        try:
            with image_errors():
                for row in rows.select_columns([name]):
                    images.append(row[name])
        except ValueError as error:
            import datasets

            stored = rows.cast_column(name, datasets.Image(decode=False))[len(images)][name]
            file = f", {stored['path']!r}" if stored and stored["path"] else ""
            raise question.fail(
                f"image {len(images)} of {split} (column '{name}'{file}) cannot be read: {error}",
                "replace or remove that file",
            ) from error
        return Column(images)
    inner = feature
    while hasattr(inner, "feature"):
        inner = inner.feature
    values = rows.with_format(None).select_columns([name])[:][name]
    names = getattr(inner, "names", None)
    return Column(list(values), tuple(names) if names else None)
