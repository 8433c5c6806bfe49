"""Targets: from columns of data to readable labels, numbers and lists of labels, with their checks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from allround.tasks.columns import Column, named_codes
from allround.tasks.question import Question
from allround.tasks.relevance import read_relevance
from allround.tasks.target_texts import accepted, read_texts
from allround.tasks.values import Target, counts, is_empty, is_missing, is_number, plain, short


class TargetReader:
    """Reads the targets of one task. labels: raw value -> the name of the label."""

    def __init__(self, question: Question, labels: Mapping[str | int | float | bool, str] | None) -> None:
        self.question = question
        self.named = {plain(value): name for value, name in labels.items()} if labels else None
        self.spellings = spellings(labels or {})

    def read(self, split: str, columns: Mapping[str, Column]) -> list[Target | None]:
        """Readable targets, one a row; None where one is missing and rows without a target are dropped."""
        question = self.question
        if question.missing == "drop":
            count = len(columns[question.targets[0]].values)
            there = [i for i in range(count) if not self._lacks(columns, i)]
            if not there:
                raise question.fail(
                    f"{self._where(split)} is missing in all {count} rows",
                    "fill in the target" if split == "train" else "fill in the target, or leave the split out",
                )
            if len(there) < count:
                found = iter(self._values(split, {name: column.take(there) for name, column in columns.items()}))
                known = set(there)
                return [next(found) if i in known else None for i in range(count)]
        return list(self._values(split, columns))

    def _lacks(self, columns: Mapping[str, Column], row: int) -> bool:
        """Whether a row has no target; of several columns of accepted answers, some may be empty."""
        found = [columns[name] for name in self.question.targets]
        if self.question.rules.written:
            return all(column.is_blank(row) or not accepted(column, row) or column.lacks(row) for column in found)
        return any(column.lacks(row) for column in found) or (self.question.rules.ranked and not found[0].values[row])

    def _where(self, split: str) -> str:
        return f"the target of {split}" if self.question.many else f"target '{self.question.targets[0]}' of {split}"

    def _values(self, split: str, columns: Mapping[str, Column]) -> Sequence[Target]:
        question, where = self.question, self._where(split)
        if question.rules.written:
            return read_texts(question, where, [columns[name] for name in question.targets])
        if question.rules.ranked:
            return read_relevance(question, where, columns)
        if question.many:
            return self._indicators(split, columns)
        column = columns[question.targets[0]]
        values = column.values
        gone = [i for i in range(len(values)) if column.is_gone(i)]
        if gone:
            raise question.fail(
                f"{where} is missing in {len(gone)} of {len(values)} rows, first in row {gone[0]}",
                "fill in the target; or leave those rows out: `missing: drop`",
            )
        if question.rules.numeric:
            return self._numbers(where, column)
        if question.rules.lists:
            return self._lists(where, column)
        nested = [v for v in values if isinstance(v, (list, tuple, dict, set, np.ndarray))]
        if nested:
            raise question.fail(
                f"{where} is not a single label in {len(nested)} of {len(values)} rows, such as {short(nested[0])}",
                "use kind: multilabel (several labels a row) or token_classification (a tag a word)",
            )
        return self._names(where, values, column.names)

    def _numbers(self, where: str, column: Column) -> list[float]:
        values = column.values
        numbers: list[float] = []
        wrong: list[object] = []
        for value in values:
            try:
                if isinstance(value, bool):
                    raise ValueError
                numbers.append(float(value))  # type: ignore[arg-type]
            except (TypeError, ValueError):
                wrong.append(value)
        if wrong:
            raise self.question.fail(
                f"{where} is not a number in {len(wrong)} of {len(values)} rows, such as {short(wrong[0])}",
                "give numbers, or use kind: classification",
            )
        infinite = [i for i, number in enumerate(numbers) if not math.isfinite(number)]
        if infinite:
            i = infinite[0]
            raise self.question.fail(
                f"{where} is not finite in {len(infinite)} of {len(values)} rows, "
                f"such as {numbers[i]} in row {column.row(i)}",
                "fill in the target, or remove those rows",
            )
        return numbers

    def _indicators(self, split: str, columns: Mapping[str, Column]) -> list[list[str]]:
        """Columns of 0 and 1, whose names are the labels."""
        targets = self.question.targets
        labels: list[list[str]] = [[] for _ in columns[targets[0]].values]
        for name in targets:
            values = columns[name].values
            wrong = [i for i, v in enumerate(values) if not (is_number(v, 0) or is_number(v, 1))]
            if wrong:
                raise self.question.fail(
                    f"target '{name}' of {split} is neither 0 nor 1 in {len(wrong)} of {len(values)} rows, "
                    f"such as {short(values[wrong[0]])} in row {columns[name].row(wrong[0])}",
                    "give 0 or 1 in each target column",
                )
            for row, value in zip(labels, values, strict=True):
                if is_number(value, 1):
                    row.append(name)
        return labels

    def _lists(self, where: str, column: Column) -> list[list[str]]:
        rows = [v for v in column.values if isinstance(v, (list, tuple, np.ndarray))]
        if len(rows) < len(column.values):
            wrong = [v for v in column.values if not isinstance(v, (list, tuple, np.ndarray))]
            per_token = self.question.rules.per_token
            raise self.question.fail(
                f"{where} is not a list in {len(wrong)} of {len(column.values)} rows, such as {short(wrong[0])}",
                "give a list of tags a row, one a word" if per_token else "give a list of labels a row",
            )
        flat: list[object] = [v for row in rows for v in row]
        gone = sum(is_missing(v) or is_empty(v) for v in flat)
        if gone:
            raise self.question.fail(f"{where} has {gone} missing labels inside its lists", "fill them in")
        named = iter(self._names(where, flat, column.names))
        return [[next(named) for _ in row] for row in rows]

    def _names(self, where: str, values: Sequence[object], names: tuple[str, ...] | None) -> list[str]:
        """Raw labels -> names: the source's own names for codes, then the user's map."""
        raw = [plain(v) for v in values]
        shown = named_codes(raw, names)
        if self.named is None:
            return shown
        known = set(self.named.values())
        unknown: Counter[str] = Counter()
        result = []
        for code, name in zip(raw, shown, strict=True):
            label = self.spellings.get(name, self.spellings.get(code, name if name in known else None))
            if label is None:
                unknown[name] += 1
            result.append(label or "")
        if unknown:
            raise self.question.fail(
                f"{where} has values that `labels` does not name: {counts(unknown)}",
                f"add them to `labels` (it names {', '.join(sorted(self.named))})",
            )
        return result


def spellings(labels: Mapping[str | int | float | bool, str]) -> dict[str, str]:
    """Label names by every way in which a file may spell their value; what is given as text is spelt one way.

    >>> spellings({1: "yes", "01": "no"})
    {'1.0': 'yes', '1': 'yes', '01': 'no'}
    """
    more: dict[str, str] = {}
    for value, name in labels.items():
        text = plain(value)
        if isinstance(value, bool):
            more.update({text.lower(): name, text.upper(): name})
        elif isinstance(value, (int, float)) and text.lstrip("-").isdigit():
            more[f"{text}.0"] = name
    return more | {plain(value): name for value, name in labels.items()}


def count_labels(targets: Sequence[Target | None]) -> Counter[str]:
    """How often each label occurs among targets that are labels or lists of labels; a missing target has none.

    >>> count_labels(["a", "b", "a", None])
    Counter({'a': 2, 'b': 1})
    """
    rows = cast("Sequence[str | list[str] | None]", targets)
    return Counter(label for row in rows for label in ([row] if isinstance(row, str) else row or ()))


def names_of(
    question: Question, labels: Mapping[str | int | float | bool, str] | Sequence[str | int | float | bool] | None
) -> Mapping[str | int | float | bool, str] | None:
    """Raw value -> label name; a list of labels is that of a scale, in order."""
    if labels is None or isinstance(labels, Mapping):
        return labels
    if not question.rules.ordered:
        raise question.fail(
            f"`labels` is a list, and the kind is {question.kind}",
            "give a name to each value: labels: {value: name}; or use kind: ordinal for labels in order",
        )
    return {value: plain(value) for value in labels}


def check_order(question: Question, targets: Sequence[Target | None]) -> None:
    """An error where the labels of a scale are not numbers, so that their order is not known."""
    if not question.rules.ordered:
        return
    words: list[str] = []
    sizes: dict[float, list[str]] = {}
    for label in count_labels(targets):
        try:
            size = float(label)
        except ValueError:
            size = math.nan
        if math.isfinite(size):
            sizes.setdefault(size, []).append(label)
        else:
            words.append(label)
    where = f"target '{question.targets[0]}'"
    if words:
        raise question.fail(
            f"{where} has labels that are not numbers, such as {short(words[0])}, and nothing says their order",
            "list them from low to high: labels: [low, middle, high]",
        )
    if twice := next((spelt for spelt in sizes.values() if len(spelt) > 1), None):
        raise question.fail(
            f"{where} spells one number in several ways: {', '.join(sorted(twice))}", "spell it one way"
        )


def check_targets(question: Question, targets: Mapping[str, Sequence[Target | None]]) -> None:
    """An error where a split has labels that train lacks, or where train leaves nothing to tell apart."""
    if question.rules.numeric:
        found = [value for value in targets["train"] if value is not None]
        if len(set(cast("list[float]", found))) == 1:
            raise question.fail(
                f"target '{question.targets[0]}' is {found[0]} in all {len(found)} train rows",
                "give training rows with different targets",
            )
        return
    if not question.rules.fixed_labels:
        return
    seen = count_labels(targets["train"])
    if len(seen) < question.rules.least_labels:
        only = f"only the label {counts(seen)}" if seen else "no label at all"
        raise question.fail(f"train has {only}", "give training rows of every label")
    for split in ("validation", "test"):
        unseen = Counter({k: n for k, n in count_labels(targets.get(split, [])).items() if k not in seen})
        if unseen:
            raise question.fail(
                f"{split} has labels that train never has: {counts(unseen)}",
                "add training rows with these labels, remove those rows, or rename the labels with `labels`",
            )
