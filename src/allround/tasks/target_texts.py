"""Targets that are texts: the accepted answers of each row, from one column of texts or lists, or from several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allround.tasks.columns import Column, named_codes
from allround.tasks.question import Question
from allround.tasks.values import Target, is_missing, plain, short


def accepted(column: Column, row: int) -> list[object]:
    """The values that a cell holds: several where it is a list.

    >>> accepted(Column([["4", "four"]]), 0), accepted(Column([4]), 0)
    (['4', 'four'], [4])
    """
    value = column.values[row]
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def read_texts(question: Question, where: str, columns: Sequence[Column]) -> list[Target]:
    """A text for each row, or the list of accepted ones, each once. Numbers are written as people write them.

    where: the target, in messages. Of several columns, all but one may be empty in a row. Errors: rows without an
    answer, with an empty one, or with what is neither a text nor a number.
    """
    count = len(columns[0].values)
    found: list[list[object]] = []
    for row in range(count):
        there = [column for column in columns if len(columns) == 1 or not column.is_blank(row)]
        found.append([value for column in there for value in accepted(column, row)])
    first = columns[0]
    wrong = [row for row, values in enumerate(found) if any(not _is_answer(value) for value in values)]
    if wrong:
        value = next(value for value in found[wrong[0]] if not _is_answer(value))
        raise question.fail(
            f"{where} is neither a text nor a list of texts in {len(wrong)} of {count} rows, such as {short(value)} in "
            f"row {first.row(wrong[0])}",
            "give the answer as text, or a list of accepted answers",
        )
    empty = [row for row, values in enumerate(found) if not values or any(_is_blank(value) for value in values)]
    if empty:
        raise question.fail(
            f"{where} is empty in {len(empty)} of {count} rows, first in row {first.row(empty[0])}",
            "fill in the answer; or leave those rows out: `missing: drop`",
        )
    names = first.names if len(columns) == 1 else None
    texts = [list(dict.fromkeys(named_codes([plain(value) for value in values], names))) for values in found]
    for row, answers in enumerate(texts):
        for text in answers:
            _check_unicode(question, where, first.row(row), text)
    return [answers[0] if len(answers) == 1 else answers for answers in texts]


def _is_answer(value: object) -> bool:
    return is_missing(value) or isinstance(value, (str, int, float))


def _is_blank(value: object) -> bool:
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def _check_unicode(question: Question, where: str, row: int, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise question.fail(
            f"{where} is not valid Unicode in row {row}: {error.reason}", "replace the broken characters"
        ) from error
