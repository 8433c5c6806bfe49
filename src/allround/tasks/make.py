"""From rows to a task: every check of a user's data, the splits, the labels, the notes."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name
from allround.core.reading import image_errors
from allround.core.seeds import seed_of
from allround.tasks.definition import MODALITIES, Definition
from allround.tasks.kind import Kind
from allround.tasks.kind import kind as find_kind
from allround.tasks.task import SPLITS, Split, Task, check_limit, row_key, text_row

MISSING = ("error", "drop")

#: Kinds that users know by other names.
_PAIRS = ("pair_classification", "text_pair_classification", "pair_regression", "text_pair_regression")


def make_task(
    name: str,
    *,
    kind: str,
    inputs: str | Sequence[str],
    target: str | Sequence[str],
    data: Mapping[str, Any],
    metric: str | None = None,
    modality: str | None = None,
    labels: Mapping[Any, str] | None = None,
    instruction: str | None = None,
    limit: int | Mapping[str, int] | None = None,
    missing: str = "error",
    table: str | None = None,
) -> Task:
    """Make a task from rows, and check them.

    data: split ("train", "validation", "test") -> rows: a list of dictionaries, a dictionary of columns, a
    pandas DataFrame or a `datasets.Dataset`. Splits that are not given are made from the others by a seeded
    draw, and a note of the task says so.
    inputs: one column, two text columns (a pair), or the columns of a table. Images are PIL images or uint8
    arrays (h, w) or (h, w, 3); words (token classification) are lists of strings.
    target: one column; for multilabel also a list of 0/1 columns, whose names become the labels.
    labels: raw value -> label name. limit: the most rows of each split (a number: of train).
    missing: what a row without a target is: an "error", or left out ("drop") after the splits are made, with a note.
    A target that is missing in part (one of several columns, one tag of a row) is missing.
    table: a name for these rows, the same for all tasks that label them. The splits of such tasks are drawn alike,
    whatever targets are missing, and their rows are numbered: first those of train, then validation, then test.

    Raises `AllroundError` that names the column, the split, how many rows, and an example.

    >>> rows = [{"text": f"{word} {i}", "label": word} for i in range(10) for word in ("good", "bad")]
    >>> task = make_task("mood", kind="classification", inputs="text", target="label", data={"train": rows})
    >>> task.definition.labels, {name: len(split) for name, split in task.splits.items()}
    (('bad', 'good'), {'train': 16, 'validation': 2, 'test': 2})
    >>> task.notes
    ('only train was given: a seeded draw of the 20 train rows makes validation (2) and test (2)',)
    """
    check_name(name, "task")
    rules = find_kind(check_kind(kind))
    if metric is not None:
        check_metric(metric, kind)
    input_names = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    target_names = (target,) if isinstance(target, str) else tuple(target)
    maker = _Maker(name, kind, rules, input_names, target_names, not isinstance(target, str), labels, missing, table)
    maker.check_question(modality)

    columns = maker.read(data)
    values = {split: maker.target_values(split, columns[split]) for split in columns}
    modality = maker.modality(modality, columns)
    rows = maker.input_rows(columns, values, modality)
    maker.check_labels(values)
    parts = maker.make_splits(rows, values)
    maker.leave_out(parts)
    maker.note_repeats({split: parts[split].inputs for split in SPLITS})

    facts = rules.facts(parts["train"].targets)
    if maker.many_targets:
        facts = {"labels": target_names}
    maker.check_facts(facts)
    definition = Definition(
        name=name,
        kind=kind,
        inputs=input_names,
        modality=modality,
        metric=metric or rules.metric,
        instruction=instruction,
    ).with_facts(facts)
    splits = {s: parts[s].split(rules.encode(parts[s].targets, definition), table is not None) for s in SPLITS}
    task = Task(definition, splits, tuple(maker.notes), table)
    return task.limit(check_limit(limit)) if limit else task


def check_kind(name: str) -> str:
    """The name of a kind that exists, or an error that suggests one.

    >>> check_kind("regression")
    'regression'
    """
    if name in _PAIRS:
        base = name.split("_")[-1]
        raise AllroundError(
            f"use the kind '{name}'",
            "a pair is not a kind of its own",
            f"use kind: {base} with two input columns",
        )
    registry.find("kind", name)
    return name


def check_metric(name: str, kind: str) -> str:
    """The name of a metric that exists and can score this kind, or an error that suggests one."""
    known = registry.names("metric")
    if known:
        kinds = registry.find("metric", name).facts["kinds"]
        if kind not in kinds:
            fit = [m for m in known if kind in registry.find("metric", m).facts["kinds"]]
            raise AllroundError(
                f"score a task of kind '{kind}' by '{name}'",
                f"'{name}' is for {', '.join(kinds)}",
                f"use one of: {', '.join(fit)}",
            )
    return name


@dataclass(frozen=True)
class _Column:
    """The values of one column, and the names of its codes where the source has them.

    rows: the row of each value, where some rows were taken out.
    """

    values: list[Any]
    names: tuple[str, ...] | None = None
    rows: list[int] | None = None

    def row(self, index: int) -> int:
        return index if self.rows is None else self.rows[index]

    def take(self, rows: list[int]) -> _Column:
        return _Column([self.values[i] for i in rows], self.names, rows)

    def lacks(self, row: int) -> bool:
        """Whether the value is missing, in whole or in part."""
        value = self.values[row]
        if isinstance(value, (list, tuple, np.ndarray)):
            return any(_missing(v) or _is_empty(v) for v in value)
        return _missing(value) or _is_empty(value) or (self.names is not None and _is(value, -1))


@dataclass(frozen=True)
class _Part:
    """Rows of a split while it is made. A target that is None is missing. numbers: of the rows in the table."""

    inputs: list[tuple[Any, ...]]
    targets: list[Any]
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int]) -> _Part:
        return _Part([self.inputs[i] for i in rows], [self.targets[i] for i in rows], [self.numbers[i] for i in rows])

    def split(self, encoded: Any, numbered: bool) -> Split:
        return Split(self.inputs, encoded, np.array(self.numbers, dtype=np.int64) if numbered else None)


class _Maker:
    """The checks of one task; each raises an error that names the task."""

    def __init__(
        self,
        name: str,
        kind: str,
        rules: Kind,
        inputs: tuple[str, ...],
        targets: tuple[str, ...],
        many_targets: bool,
        labels: Mapping[Any, str] | None,
        missing: str,
        table: str | None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.rules = rules
        self.inputs = inputs
        self.targets = targets
        self.many_targets = many_targets
        self.label_names = {_plain(k): v for k, v in labels.items()} if labels else None
        self.spellings = _spellings(labels or {})
        self.numeric = kind == "regression"
        self.missing = missing
        self.table = table
        self.numbers: dict[str, list[int]] = {}
        self.wordless: set[int] = set()
        self.drawn: list[str] = []
        self.notes: list[str] = []

    def fail(self, found: str, do: str) -> AllroundError:
        return AllroundError(f"make the task '{self.name}'", found, do)

    # The question itself.

    def check_question(self, modality: str | None) -> None:
        if not self.inputs:
            raise self.fail("it has no input column", "name at least one column in `inputs`")
        if not self.targets:
            raise self.fail("it has no target column", "name a column in `target`")
        for what, columns in (("inputs", self.inputs), ("target", self.targets)):
            twice = [c for c, n in Counter(columns).items() if n > 1]
            if twice:
                raise self.fail(f"`{what}` names the column '{twice[0]}' twice", "name each column once")
        both = [c for c in self.targets if c in self.inputs]
        if both:
            raise self.fail(
                f"the column '{both[0]}' is an input and the target",
                "take it out of `inputs`: it gives the answer away",
            )
        if self.many_targets and self.kind != "multilabel":
            raise self.fail(
                f"`target` is a list of {len(self.targets)} columns, and the kind is {self.kind}",
                "name one target column, or use kind: multilabel for 0/1 columns",
            )
        if self.label_names is not None and (self.numeric or self.many_targets):
            raise self.fail(
                "`labels` is set, and this target has no values to name",
                "leave `labels` out" if self.numeric else "leave `labels` out: the columns' names are the labels",
            )
        if self.missing not in MISSING:
            raise self.fail(f"`missing` is {_short(self.missing)}", suggestion(str(self.missing), MISSING))
        if self.table is not None:
            check_name(self.table, "table")
        if modality is not None and modality not in MODALITIES:
            raise self.fail(f"there is no modality '{modality}'", suggestion(modality, MODALITIES))
        if self.rules.per_token and (len(self.inputs) != 1 or modality not in (None, "text")):
            raise self.fail(
                f"{self.kind} takes one column of words", "name one input column that holds a list of words a row"
            )

    # Rows.

    def read(self, data: Mapping[str, Any]) -> dict[str, dict[str, _Column]]:
        if not isinstance(data, Mapping) or not data:
            raise self.fail(
                f"the data are {_short(data)}", "give a mapping of splits to rows: {'train': rows, 'test': rows}"
            )
        for split in data:
            if split not in SPLITS:
                raise self.fail(f"there is no split {_short(split)}", suggestion(str(split), SPLITS))
        if "train" not in data:
            raise self.fail(
                f"there is no train split, only {' and '.join(data)}", "give the rows to train on as 'train'"
            )
        wanted = (*self.inputs, *self.targets)
        read = {split: self._columns(split, data[split], wanted) for split in SPLITS if split in data}
        start = 0
        for split, columns in read.items():
            count = len(columns[self.inputs[0]].values)
            self.numbers[split] = list(range(start, start + count))
            start += count
        for split in ("validation", "test"):
            if split in read and self._is_unpublished(read[split]):
                del read[split]
                self.notes.append(f"{split} has no targets (every label is -1), so it is left out")
        return read

    def _is_unpublished(self, columns: Mapping[str, _Column]) -> bool:
        return all(
            columns[t].names is not None and bool(columns[t].values) and all(v == -1 for v in columns[t].values)
            for t in self.targets
        )

    def _columns(self, split: str, rows: Any, wanted: Sequence[str]) -> dict[str, _Column]:
        known, column = self._reader(split, rows)
        twice = [c for c, n in Counter(known).items() if n > 1]
        if twice:
            raise self.fail(f"{split} has {known.count(twice[0])} columns called '{twice[0]}'", "rename all but one")
        for name in wanted if known else ():
            if name not in known:
                raise self.fail(
                    f"{split} has no column '{name}'", suggestion(name, [c for c in known if isinstance(c, str)])
                )
        read = {name: column(name) for name in wanted} if known else {}
        found = {name: _Column([_native(v) for v in c.values], c.names) for name, c in read.items()}
        lengths = {name: len(c.values) for name, c in found.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"'{name}' has {n}" for name, n in lengths.items())
            raise self.fail(f"the columns of {split} are not equally long: {listed}", "give one value a row in each")
        if not found or not next(iter(lengths.values())):
            raise self.fail(f"{split} has no rows", "give it rows, or leave the split out")
        return found

    def _reader(self, split: str, rows: Any) -> tuple[list[Any], Any]:
        """The names of the columns, and a function that reads one."""
        if hasattr(rows, "features") and hasattr(rows, "column_names"):
            return list(rows.column_names), lambda name: self._dataset_column(split, rows, name)
        if hasattr(rows, "iloc") and hasattr(rows, "columns"):
            return list(rows.columns), lambda name: _Column(rows[name].tolist())
        if isinstance(rows, Mapping):
            return list(rows), lambda name: self._mapped_column(split, name, rows[name])
        if isinstance(rows, Sequence) and not isinstance(rows, str):
            for number, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise self.fail(f"row {number} of {split} is {_short(row)}", "give rows as dictionaries")
            known = list(dict.fromkeys(c for row in rows for c in row))
            return known, lambda name: _Column([row.get(name) for row in rows])
        raise self.fail(
            f"the rows of {split} are a {type(rows).__name__}",
            "give a list of dictionaries, a dictionary of columns, a DataFrame or a Dataset",
        )

    def _mapped_column(self, split: str, name: str, values: Any) -> _Column:
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise self.fail(f"column '{name}' of {split} is {_short(values)}", "give a list of values")
        return _Column(list(values))

    def _dataset_column(self, split: str, rows: Any, name: str) -> _Column:
        feature = rows.features[name]
        if type(feature).__name__ == "Image":
            images = []
            try:
                with image_errors():
                    for row in rows.select_columns([name]):
                        images.append(row[name])
            except ValueError as error:
                import datasets

                stored = rows.cast_column(name, datasets.Image(decode=False))[len(images)][name]
                file = f", {stored['path']!r}" if stored and stored["path"] else ""
                raise self.fail(
                    f"image {len(images)} of {split} (column '{name}'{file}) cannot be read: {error}",
                    "replace or remove that file",
                ) from error
            return _Column(images)
        inner = feature
        while hasattr(inner, "feature"):
            inner = inner.feature
        values = rows.with_format(None).select_columns([name])[:][name]
        names = getattr(inner, "names", None)
        return _Column(list(values), tuple(names) if names else None)

    # Targets.

    def target_values(self, split: str, columns: Mapping[str, _Column]) -> list[Any]:
        """Readable targets, one a row; None where one is missing and rows without a target are dropped."""
        if self.missing == "drop":
            count = len(self.numbers[split])
            there = [i for i in range(count) if not any(columns[t].lacks(i) for t in self.targets)]
            if not there:
                raise self.fail(
                    f"{self._target_of(split)} is missing in all {count} rows",
                    "fill in the target" if split == "train" else "fill in the target, or leave the split out",
                )
            if len(there) < count:
                found = iter(self._values(split, {t: columns[t].take(there) for t in self.targets}))
                known = set(there)
                return [next(found) if i in known else None for i in range(count)]
        return self._values(split, columns)

    def _target_of(self, split: str) -> str:
        return f"target '{self.targets[0]}' of {split}" if not self.many_targets else f"the target of {split}"

    def _values(self, split: str, columns: Mapping[str, _Column]) -> list[Any]:
        if self.many_targets:
            return self._indicator_labels(split, columns)
        column = columns[self.targets[0]]
        coded = column.names is not None
        where = self._target_of(split)
        gone = [i for i, v in enumerate(column.values) if _missing(v) or _is_empty(v) or (coded and _is(v, -1))]
        if gone:
            raise self.fail(
                f"{where} is missing in {len(gone)} of {len(column.values)} rows, first in row {gone[0]}",
                "fill in the target, or remove those rows",
            )
        if self.numeric:
            return self._numbers(where, column)
        if self.rules.per_token or self.kind == "multilabel":
            return self._label_lists(where, column)
        nested = [i for i, v in enumerate(column.values) if isinstance(v, (list, tuple, dict, set, np.ndarray))]
        if nested:
            raise self.fail(
                f"{where} is no single label in {len(nested)} of {len(column.values)} rows, "
                f"such as {_short(column.values[nested[0]])}",
                "use kind: multilabel (several labels a row) or token_classification (a tag a word)",
            )
        return self._named(where, column.values, column.names)

    def _numbers(self, where: str, column: _Column) -> list[float]:
        values = column.values
        numbers: list[float] = []
        wrong: list[Any] = []
        for value in values:
            try:
                if isinstance(value, bool):
                    raise ValueError
                numbers.append(float(value))
            except (TypeError, ValueError):
                wrong.append(value)
        if wrong:
            raise self.fail(
                f"{where} is not a number in {len(wrong)} of {len(values)} rows, such as {_short(wrong[0])}",
                "give numbers, or use kind: classification",
            )
        infinite = [i for i, number in enumerate(numbers) if not math.isfinite(number)]
        if infinite:
            i = infinite[0]
            raise self.fail(
                f"{where} is not finite in {len(infinite)} of {len(values)} rows, "
                f"such as {numbers[i]} in row {column.row(i)}",
                "fill in the target, or remove those rows",
            )
        return numbers

    def _indicator_labels(self, split: str, columns: Mapping[str, _Column]) -> list[Any]:
        labels: list[list[str]] = [[] for _ in columns[self.targets[0]].values]
        for name in self.targets:
            values = columns[name].values
            wrong = [i for i, v in enumerate(values) if not (_is(v, 0) or _is(v, 1))]
            if wrong:
                raise self.fail(
                    f"target '{name}' of {split} is neither 0 nor 1 in {len(wrong)} of {len(values)} rows, "
                    f"such as {_short(values[wrong[0]])} in row {columns[name].row(wrong[0])}",
                    "give 0 or 1 in each target column",
                )
            for row, value in zip(labels, values, strict=True):
                if _is(value, 1):
                    row.append(name)
        return labels

    def _label_lists(self, where: str, column: _Column) -> list[Any]:
        wrong = [v for v in column.values if not isinstance(v, (list, tuple, np.ndarray))]
        if wrong:
            raise self.fail(
                f"{where} is not a list in {len(wrong)} of {len(column.values)} rows, such as {_short(wrong[0])}",
                "give a list of labels a row" if not self.rules.per_token else "give a list of tags a row, one a word",
            )
        flat = [v for row in column.values for v in row]
        gone = sum(_missing(v) or _is_empty(v) for v in flat)
        if gone:
            raise self.fail(f"{where} has {gone} missing labels inside its lists", "fill them in")
        named = iter(self._named(where, flat, column.names))
        return [[next(named) for _ in row] for row in column.values]

    def _named(self, where: str, values: list[Any], names: tuple[str, ...] | None) -> list[str]:
        """Raw labels -> names: the source's own names for codes, then the user's map."""
        raw = [_plain(v) for v in values]
        shown = raw
        if names is not None:
            shown = [names[int(v)] if v.lstrip("-").isdigit() and 0 <= int(v) < len(names) else v for v in raw]
        if self.label_names is None:
            return shown
        known = set(self.label_names.values())
        unknown: Counter[str] = Counter()
        result = []
        for code, name in zip(raw, shown, strict=True):
            label = self.spellings.get(name, self.spellings.get(code, name if name in known else None))
            if label is None:
                unknown[name] += 1
            result.append(label or "")
        if unknown:
            raise self.fail(
                f"{where} has values that `labels` does not name: {_counts(unknown)}",
                f"add them to `labels` (it names {', '.join(sorted(self.label_names))})",
            )
        return result

    def check_labels(self, values: Mapping[str, list[Any]]) -> None:
        """Labels that training lacks, and training that leaves nothing to tell apart."""
        if self.numeric:
            found = [value for value in values["train"] if value is not None]
            if len(set(found)) == 1:
                raise self.fail(
                    f"target '{self.targets[0]}' is {found[0]} in all {len(found)} train rows",
                    "give training rows with different targets",
                )
            return
        seen = self._count(values["train"])
        least = 1 if self.kind == "multilabel" else 2
        if len(seen) < least:
            only = f"only the label {_counts(seen)}" if seen else "no label at all"
            raise self.fail(f"train has {only}", "give training rows of every label")
        for split in ("validation", "test"):
            unseen = Counter({k: n for k, n in self._count(values.get(split, [])).items() if k not in seen})
            if unseen:
                raise self.fail(
                    f"{split} has labels that train never has: {_counts(unseen)}",
                    "add training rows with these labels, remove those rows, or rename the labels with `labels`",
                )

    def _count(self, values: list[Any]) -> Counter[str]:
        return Counter(v for row in values for v in ([row] if isinstance(row, str) else row or ()))

    def check_facts(self, facts: Mapping[str, Any]) -> None:
        if self.numeric and not all(math.isfinite(facts[k]) for k in ("center", "scale")):
            raise self.fail("the targets are too large to standardise", "give them in a larger unit")

    # Inputs.

    def modality(self, given: str | None, columns: Mapping[str, Mapping[str, _Column]]) -> str:
        if self.rules.per_token:
            return "text"
        if given is not None:
            if given == "image" and len(self.inputs) != 1:
                raise self.fail(f"an image task has {len(self.inputs)} input columns", "name the one column of images")
            if given == "text" and len(self.inputs) > 2:
                raise self.fail(
                    f"a text task has {len(self.inputs)} input columns", "name one column, or two for a pair"
                )
            return given
        kinds = []
        for name in self.inputs:
            first = next((v for v in columns["train"][name].values if not _missing(v)), None)
            if _is_image(first):
                kinds.append("image")
            elif isinstance(first, str) or (
                isinstance(first, (list, tuple)) and all(isinstance(w, str) for w in first)
            ):
                kinds.append("text")
            elif first is None or isinstance(first, (int, float)):
                kinds.append("table")
            else:
                raise self.fail(
                    f"input '{name}' of train holds {_short(first)}, a {type(first).__name__}",
                    "give text, lists of words, images, or numbers",
                )
        if "image" in kinds and len(kinds) > 1:
            raise self.fail(
                f"`inputs` joins an image with other columns ({', '.join(self.inputs)})",
                "name the column of images only",
            )
        if set(kinds) == {"text"} and len(kinds) > 2:
            raise self.fail(
                f"`inputs` names {len(kinds)} columns of text",
                "name one, or two for a pair; set modality: table if they are categories",
            )
        return kinds[0] if len(set(kinds)) == 1 else "table"

    def input_rows(
        self, columns: Mapping[str, Mapping[str, _Column]], values: dict[str, list[Any]], modality: str
    ) -> dict[str, list[tuple[Any, ...]]]:
        """Rows of inputs of every split; rows of words that are empty leave `values` too."""
        if self.rules.per_token:
            return {split: self._words(split, columns[split], values) for split in columns}
        found: dict[str, list[list[Any]]] = {split: [] for split in columns}
        for name in self.inputs:
            if modality == "table":
                self._table(name, columns, found)
                continue
            for split in columns:
                read = self._image if modality == "image" else self._text
                found[split].append(read(split, name, columns[split][name].values))
        return {split: list(zip(*parts, strict=True)) for split, parts in found.items()}

    def _missing_input(self, split: str, name: str, values: list[Any], what: str) -> None:
        gone = [i for i, v in enumerate(values) if _missing(v)]
        if gone:
            raise self.fail(
                f"input '{name}' of {split} is missing in {len(gone)} of {len(values)} rows, first in row {gone[0]}",
                f"fill in the {what}, or remove those rows",
            )

    def _text(self, split: str, name: str, values: list[Any]) -> list[str]:
        self._missing_input(split, name, values, "text")
        found = [
            " ".join(v) if isinstance(v, (list, tuple)) and all(isinstance(w, str) for w in v) else v for v in values
        ]
        wrong = [v for v in found if not isinstance(v, str)]
        if wrong:
            raise self.fail(
                f"input '{name}' of {split} is not text in {len(wrong)} of {len(values)} rows, "
                f"such as {_short(wrong[0])}",
                "give text, or set modality: table for numbers",
            )
        self._unicode(split, name, found)
        return found

    def _unicode(self, split: str, name: str, texts: Sequence[str]) -> None:
        for number, text in enumerate(texts):
            if not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise self.fail(
                        f"input '{name}' of {split} is not valid Unicode, first in text {number}: {error.reason}",
                        "replace the broken characters",
                    ) from error

    def _words(self, split: str, columns: Mapping[str, _Column], values: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
        name = self.inputs[0]
        rows = columns[name].values
        self._missing_input(split, name, rows, "words")
        wrong = [
            v
            for v in rows
            if not isinstance(v, (list, tuple, np.ndarray)) or not all(isinstance(word, str) for word in v)
        ]
        if wrong:
            raise self.fail(
                f"input '{name}' of {split} is not a list of words in {len(wrong)} of {len(rows)} rows, "
                f"such as {_short(wrong[0])}",
                "give a list of strings a row",
            )
        uneven = [
            i
            for i, (words, tags) in enumerate(zip(rows, values[split], strict=True))
            if tags is not None and len(words) != len(tags)
        ]
        if uneven:
            i = uneven[0]
            raise self.fail(
                f"{len(uneven)} of {len(rows)} rows of {split} do not have one tag a word, "
                f"such as row {i} with {len(rows[i])} words and {len(values[split][i])} tags",
                "give one tag a word",
            )
        kept = [i for i, words in enumerate(rows) if len(words)]
        if len(kept) < len(rows):
            if not kept:
                raise self.fail(f"no row of {split} has any words", "give rows with words")
            self.notes.append(f"{len(rows) - len(kept)} of {len(rows)} {split} rows have no words and are left out")
            if self.table is None:
                values[split] = [values[split][i] for i in kept]
                self.numbers[split] = [self.numbers[split][i] for i in kept]
            else:  # they stay until the splits are drawn: other tasks of the table may have a target for them
                words = set(kept)
                self.wordless |= {number for i, number in enumerate(self.numbers[split]) if i not in words}
                values[split] = [tags if i in words else None for i, tags in enumerate(values[split])]
                kept = list(range(len(rows)))
        found = [[str(word) for word in rows[i]] for i in kept]
        self._unicode(split, name, [word for words in found for word in words])
        return [(words,) for words in found]

    def _image(self, split: str, name: str, values: list[Any]) -> list[Any]:
        self._missing_input(split, name, values, "image")
        found = []
        for number, value in enumerate(values):
            try:
                found.append(picture(value))
            except ValueError as error:
                raise self.fail(
                    f"input '{name}' of {split} is no image in row {number}: {error}",
                    "give PIL images, or uint8 arrays (h, w) or (h, w, 3)",
                ) from error
        return found

    def _table(
        self, name: str, columns: Mapping[str, Mapping[str, _Column]], found: dict[str, list[list[Any]]]
    ) -> None:
        """One column of a table: numbers become floats; text anywhere in train makes all of it text."""
        text = False
        for split in columns:
            values = [None if _missing(v) else v for v in columns[split][name].values]
            wrong = [v for v in values if v is not None and not isinstance(v, (str, int, float))]
            endless = [v for v in values if isinstance(v, float) and math.isinf(v)]
            words = [v for v in values if isinstance(v, str)]
            if wrong or endless:
                raise self.fail(
                    f"input '{name}' of {split} is neither a finite number nor text in {len(wrong or endless)} of "
                    f"{len(values)} rows, such as {_short((wrong or endless)[0])}",
                    "give numbers or text; leave a cell empty where the value is missing",
                )
            if split == "train":
                text = bool(words)
            elif words and not text:
                raise self.fail(
                    f"input '{name}' holds numbers in train, and text in {len(words)} of {len(values)} rows "
                    f"of {split}, such as {_short(words[0])}",
                    "give the same type in every split",
                )
            if text:
                self._unicode(split, name, words)
            found[split].append([None if v is None else str(v) if text else float(v) for v in values])

    # Splits and notes.

    def make_splits(self, rows: Mapping[str, list[Any]], values: Mapping[str, list[Any]]) -> dict[str, _Part]:
        """The three splits; what is not given is drawn from what is."""
        parts = {split: _Part(rows[split], values[split], self.numbers[split]) for split in rows}
        given = set(parts)
        if given == {"train", "validation"}:
            parts["test"] = parts.pop("validation")
        total = len(parts["train"])
        self.drawn = made = [split for split in ("validation", "test") if split not in parts]
        for split in made:
            parts["train"], parts[split] = self._draw(parts["train"], max(1, round(total / 10)), split)
        if made:
            drawn = " and ".join(f"{split} ({len(parts[split])})" for split in made)
            if given == {"train"}:
                found = "only train was given:"
            elif "test" in given:
                found = "no validation was given:"
            else:
                found = "no test was given: validation serves as test, and"
            self.notes.append(f"{found} a seeded draw of the {total} train rows makes {drawn}")
        return parts

    def _draw(self, part: _Part, count: int, split: str) -> tuple[_Part, _Part]:
        """Take about `count` rows out: equal inputs together, and never the last training row of a label.

        For a task of a table the labels play no part: all its tasks must draw the same rows.
        """
        inputs = part.inputs if self.table is None else [text_row(row) for row in part.inputs]
        free = self.numeric or self.table is not None
        labels: list[set[str]] = [set() if free else set(self._count([t])) for t in part.targets]
        # Not seeded by the task's name: tasks on the same rows must not test on each other's training rows.
        order = np.random.default_rng(seed_of(0, "split", split)).permutation(len(inputs)).tolist()
        equal: dict[Any, list[int]] = {}
        for i, row in enumerate(inputs):
            equal.setdefault(row_key(row), []).append(i)
        taken = _take([equal[row_key(inputs[i])] for i in order], labels, count)
        if not taken:  # a few distinct inputs make up all rows: they cannot be kept apart
            taken = _take([[i] for i in order], labels, count)
        if not taken:
            raise self.fail(
                f"no {split} split was given, and none of the {len(inputs)} train rows can be spared for it",
                "give more rows, or the split itself",
            )
        chosen, rest = sorted(taken), [i for i in range(len(inputs)) if i not in taken]
        return part.take(rest), part.take(chosen)

    def leave_out(self, parts: dict[str, _Part]) -> None:
        """Rows without a target leave their split; of a table also those whose label a draw left train without."""
        for split in SPLITS:
            part = parts[split]
            kept = [i for i, target in enumerate(part.targets) if target is not None]
            gone = sum(t is None and n not in self.wordless for t, n in zip(part.targets, part.numbers, strict=True))
            if gone:
                self.notes.append(f"{gone} of {len(part)} {split} rows have no target and are left out")
            self._keep(parts, split, kept, "has a target")
        if self.table is None or not self.drawn:
            return
        seen = set(self._count(parts["train"].targets)) if not self.numeric else set()
        for split in () if self.numeric else ("validation", "test"):
            part = parts[split]
            kept = [i for i, target in enumerate(part.targets) if seen.issuperset(self._count([target]))]
            if len(kept) < len(part):
                self.notes.append(
                    f"{len(part) - len(kept)} of {len(part)} {split} rows have labels that no train row has after the "
                    f"draw, and are left out"
                )
            self._keep(parts, split, kept, "has a label that train has")
        self.check_labels({split: part.targets for split, part in parts.items()})

    def _keep(self, parts: dict[str, _Part], split: str, rows: list[int], has: str) -> None:
        if not rows:
            drawn = split in self.drawn
            raise self.fail(
                f"none of the {len(parts[split])} rows {'drawn for' if drawn else 'of'} {split} {has}",
                f"give {split} {'as a split of its own, with rows that have one' if drawn else 'rows that have one'}",
            )
        if len(rows) < len(parts[split]):
            parts[split] = parts[split].take(rows)

    def note_repeats(self, rows: Mapping[str, list[Any]]) -> None:
        keys = {split: [row_key(row) for row in rows[split]] for split in SPLITS}
        for first, second in (("test", "train"), ("validation", "train"), ("test", "validation")):
            seen = set(keys[second])
            count = sum(key in seen for key in keys[first])
            if count:
                self.notes.append(f"{count} of {len(keys[first])} {first} rows are also in {second}")


def _take(groups: list[list[int]], labels: list[set[str]], count: int) -> set[int]:
    """At most `count` rows in whole groups, so that each label, and some row, stays outside."""
    left = Counter(label for row in labels for label in row)
    taken: set[int] = set()
    for group in groups:
        if group[0] in taken or len(taken) + len(group) > min(count, len(labels) - 1):
            continue
        gone = Counter(label for i in group for label in labels[i])
        if all(left[label] > n for label, n in gone.items()):
            left.subtract(gone)
            taken.update(group)
    return taken


def _native(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def _is(value: Any, number: int) -> bool:
    return isinstance(value, (int, float)) and value == number


def _plain(value: Any) -> str:
    """A raw label as text: 1, 1.0 and "1" are the same label."""
    value = _native(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _spellings(labels: Mapping[Any, str]) -> dict[str, str]:
    """Label names by every way in which a file may spell their value; what is given as text is spelt one way.

    >>> _spellings({1: "yes", "01": "no"})
    {'1.0': 'yes', '1': 'yes', '01': 'no'}
    """
    more: dict[str, str] = {}
    for value, name in labels.items():
        plain = _plain(value)
        if isinstance(value, bool):
            more.update({plain.lower(): name, plain.upper(): name})
        elif isinstance(value, (int, float)) and plain.lstrip("-").isdigit():
            more[f"{plain}.0"] = name
    return more | {_plain(value): name for value, name in labels.items()}


def _is_image(value: Any) -> bool:
    return hasattr(value, "getbands") or (isinstance(value, np.ndarray) and value.ndim in (2, 3))


def picture(value: Any) -> Any:
    """An image as 8-bit grey ("L") or colour ("RGB"). Errors: a ValueError where it is none, or holds nothing."""
    from PIL import Image

    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3))):
            raise ValueError(f"an array of {value.dtype} {value.shape}")
        value = Image.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value)
    if not hasattr(value, "getbands"):
        raise ValueError(f"it is {_short(value)}")
    if 0 in value.size:
        raise ValueError(f"its size is {value.size}")
    if value.mode in ("L", "RGB"):
        return value
    if value.mode in ("1", "LA"):
        return value.convert("L")
    if value.mode.startswith("I"):  # 16 bits, or 16 in 32
        wide = np.asarray(value)
        return Image.fromarray((wide >> 8 if wide.max() > 255 else wide).clip(0, 255).astype(np.uint8))
    return value.convert("RGB")


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _counts(counter: Counter[str]) -> str:
    listed = ", ".join(f"'{reprlib.repr(name)[1:-1]}' ({n})" for name, n in counter.most_common(5))
    return f"{listed} and {len(counter) - 5} more" if len(counter) > 5 else listed
