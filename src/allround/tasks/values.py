"""Values of data: the types of what goes in and comes out, and how values as people give them are read and shown."""

from __future__ import annotations

import reprlib
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from allround.tasks.passages import Passages

#: One input of a row: a text, a list of words, an image, a number or category of a table (None: missing), or passages.
Value: TypeAlias = "str | list[str] | Image | float | Passages | None"
#: The inputs of one row, one for each column.
Row: TypeAlias = "tuple[Value, ...]"
#: A readable target or answer: a label, a number, a list of labels, tags or passages, or the grades of passages.
Target: TypeAlias = "str | float | list[str] | dict[str, float]"


#: Words that stand for a missing value among numbers and dates.
MISSING_WORDS = ("na", "n/a", "nan", "null", "none")


def native(value: object) -> object:
    """A NumPy scalar, or an exact decimal, as the Python value that it stands for; anything else as it is."""
    if isinstance(value, np.datetime64):  # `item` makes a whole number of nanoseconds
        value = value.astype("datetime64[us]")
    if isinstance(value, Decimal):
        return float(value)
    return value.item() if isinstance(value, np.generic) else value


def is_missing(value: object) -> bool:
    """Whether there is no value: None, NaN, or what pandas writes for them."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def is_empty(value: object) -> bool:
    """Whether a value is the empty text."""
    return isinstance(value, str) and not value


def is_missing_word(text: str) -> bool:
    """Whether a text stands for a missing value among numbers and dates.

    >>> is_missing_word(" N/A "), is_missing_word("  "), is_missing_word("nil")
    (True, True, False)
    """
    text = text.strip().lower()
    return not text or text in MISSING_WORDS


def is_number(value: object, number: int) -> bool:
    """Whether a value is this number, in whatever type.

    >>> is_number(True, 1), is_number(1.0, 1), is_number("1", 1)
    (True, True, False)
    """
    return isinstance(value, (int, float)) and value == number


def plain(value: object) -> str:
    """A raw label as text: 1, 1.0 and "1" are the same label.

    >>> plain(1.0), plain("1"), plain(1.5)
    ('1', '1', '1.5')
    """
    value = native(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def short(value: object) -> str:
    """A value as a message shows it: its repr, cut in the middle where it is long."""
    return reprlib.repr(value)


def counts(counter: Counter[str]) -> str:
    """The commonest five labels with how often they occur, for a message.

    >>> counts(Counter(["a", "b", "a"]))
    "'a' (2), 'b' (1)"
    """
    listed = ", ".join(f"'{reprlib.repr(name)[1:-1]}' ({n})" for name, n in counter.most_common(5))
    return f"{listed} and {len(counter) - 5} more" if len(counter) > 5 else listed
