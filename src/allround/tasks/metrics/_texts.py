"""Texts as metrics compare them: what is extracted, accepted answers, normalised words, numbers."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from importlib.util import find_spec

import numpy as np

from allround.core.errors import AllroundError
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.metric import Array
from allround.tasks.prompt import extracted

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CURRENCY = re.compile(r"^([+-]?)[$€£¥]\s*")
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?([eE][+-]?\d{1,4})?")


def answers(targets: Encoded, predictions: Encoded, definition: Definition) -> Iterator[tuple[tuple[str, ...], str]]:
    """The accepted answers of each row and what was answered, after the task's `extract` has read all of them."""
    pattern = definition.prompt.extract if definition.prompt is not None else ""
    for accepted, (said,) in zip(targets, predictions, strict=True):
        yield tuple(extracted(text, pattern) for text in accepted), extracted(said, pattern)


def best(targets: Encoded, predictions: Encoded, definition: Definition, compare: Callable[[str, str], float]) -> Array:
    """For each row how well the answer fits the accepted answer that it fits best: (n,). compare: accepted, said."""
    pairs = answers(targets, predictions, definition)
    return np.array([max(compare(text, said) for text in accepted) for accepted, said in pairs], dtype=np.float64)


def need(package: str, metric: str, definition: Definition) -> None:
    """An error where the package that a metric is from is not installed."""
    if find_spec(package) is None:
        raise AllroundError(
            f"score the task '{definition.name}' by '{metric}'",
            f"the package {package.replace('_', '-')} is not installed",
            "pip install 'allround[lm]'",
        )


def normalised(text: str, *, articles: bool = True) -> str:
    """Lower case, without ASCII punctuation, single spaces; a text of punctuation alone keeps it.

    articles: whether a, an and the stay.

    >>> normalised(" The  U.S.A.!"), normalised("The U.S.A.", articles=False), normalised("+")
    ('the usa', 'usa', '+')
    """
    lower = text.lower()
    words = lower.translate(_PUNCTUATION)
    if not articles:
        words = _ARTICLES.sub(" ", words)
    return " ".join(words.split()) or " ".join(lower.split())


def number(text: str) -> Decimal | None:
    """The number that a text is, whatever way it is written; None where it is none.

    Commas between thousands, a currency sign before it, and a full stop or a percent sign behind it do not count.

    >>> number("$1,000.0"), number("1e3") == number("1000."), number("12 apples")
    (Decimal('1000.0'), True, None)
    """
    plain = _CURRENCY.sub(r"\1", text.strip()).rstrip("%").strip()
    if not plain.isascii() or not _NUMBER.fullmatch(plain):
        return None
    try:
        return Decimal(plain.replace(",", ""))
    except InvalidOperation:
        return None
