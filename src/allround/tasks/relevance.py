"""Relevance: the grades of passages that a column of data gives, and what they must hold to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from allround.core.seeds import seed_of
from allround.tasks.columns import Column, Data
from allround.tasks.passages import PASSAGES, Passages
from allround.tasks.question import Question
from allround.tasks.values import Row, Target, is_missing, native, plain, short


def with_passages(question: Question, read: Data, passages: Passages) -> Data:
    """Data whose rows all have these passages, as a further column."""
    columns = {
        split: {**found, PASSAGES: Column([passages] * len(found[question.inputs[0]].values))}
        for split, found in read.columns.items()
    }
    return Data(columns, read.numbers)


def grades_of(value: object) -> dict[str, float]:
    """Grades by id from a cell: a dictionary, a list of ids that are relevant, or one id.

    Errors: a ValueError in words.

    >>> grades_of({"p1": 2, "p2": 0}), grades_of(["p1", 7]), grades_of("p1")
    ({'p1': 2.0, 'p2': 0.0}, {'p1': 1.0, '7': 1.0}, {'p1': 1.0})
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {value: 1.0} if isinstance(value, str) else {}
    if isinstance(value, Mapping):
        found = {plain(one): native(grade) for one, grade in value.items() if grade is not None}
        wrong = [g for g in found.values() if isinstance(g, bool) or not isinstance(g, int | float) or not 0 <= g < 1e6]
        if wrong:
            raise ValueError(f"a grade is {short(wrong[0])}")
        return {one: float(grade) for one, grade in found.items()}  # type: ignore[arg-type]
    values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if any(is_missing(one) or not isinstance(native(one), str | int | float) for one in values):
        raise ValueError(f"{short(value)} names no passages")
    return dict.fromkeys(map(plain, values), 1.0)


def read_relevance(question: Question, where: str, columns: Mapping[str, Column]) -> list[Target]:
    """The grades of each row, those of the column of negatives being 0. where: the target, in messages.

    The highest grades come first, and equal ones in an order drawn for the row, since training looks at the first.

    Errors: rows without a relevant passage, grades that are none, and passages that are relevant and negative.
    """
    column, negatives = columns[question.targets[0]], columns.get(question.negatives)
    found: list[Target] = []
    for i, value in enumerate(column.values):
        try:
            grades = grades_of(value)
            if not any(grade > 0 for grade in grades.values()):
                raise ValueError("no passage is relevant")
            wrong = {} if negatives is None or negatives.is_blank(i) else grades_of(negatives.values[i])
            if both := [one for one in wrong if grades.get(one, 0) > 0]:
                raise ValueError(f"the passage {short(both[0])} is relevant and in '{question.negatives}'")
        except ValueError as error:
            raise question.fail(
                f"{where} cannot be read in row {column.row(i)}: {error}",
                "give the id of a relevant passage, a list of them, or their grades: {id: grade}",
            ) from None
        turns = np.random.default_rng(seed_of(0, "relevance", question.name, where, i)).permutation(len(grades))
        mixed = sorted(zip(grades.items(), turns, strict=True), key=lambda one: (-one[0][1], one[1]))
        found.append({**dict(pair for pair, _ in mixed), **dict.fromkeys(wrong, 0.0)})
    return found


def with_rest(
    question: Question, rows: Mapping[str, Sequence[Row]], targets: Mapping[str, Sequence[Target | None]]
) -> dict[str, list[Target | None]]:
    """Targets with the grade 0 for those of a row's own candidates that they do not name, in an order drawn for it."""
    found: dict[str, list[Target | None]] = {}
    for split, part in targets.items():
        whole: list[Target | None] = []
        for i, (row, target) in enumerate(zip(rows[split], part, strict=True)):
            if isinstance(target, dict) and isinstance(row[1], Passages):
                rest = [one for one in row[1].ids if one not in target]
                turns = np.random.default_rng(seed_of(0, "rest", question.name, split, i)).permutation(len(rest))
                target = {**target, **{rest[turn]: 0.0 for turn in turns}}
            whole.append(target)
        found[split] = whole
    return found


def check_relevance(
    question: Question,
    rows: Mapping[str, Sequence[Row]],
    targets: Mapping[str, Sequence[Target | None]],
    columns: Mapping[str, Mapping[str, Column]],
) -> None:
    """An error where a target names passages that its row does not have, or an id stands for two texts."""
    texts: dict[str, str] = {}
    for row in {id(row[1]): row for part in rows.values() for row in part}.values():
        own = row[1]
        if not isinstance(own, Passages) or question.shared:
            continue
        for one, text in zip(own.ids, own.texts(), strict=True):
            if texts.setdefault(one, text) != text:
                raise question.fail(
                    f"the passage {short(one)} has one text in some rows and another in others",
                    "give each passage an id of its own",
                )
    for split, part in targets.items():
        for i, (row, target) in enumerate(zip(rows[split], part, strict=True)):
            named = target if isinstance(target, dict) else {}
            lost = [one for one in named if isinstance(row[1], Passages) and one not in row[1]]
            if lost:
                raise question.fail(
                    f"target '{question.targets[0]}' of {split} names {short(lost[0])} in row "
                    f"{columns[split][question.targets[0]].row(i)}, which is not the id of any of its "
                    f"{len(row[1])} passages",  # type: ignore[arg-type]
                    "name passages by their ids; of a list of texts, the texts are the ids",
                )
