"""Numbers written as text: with a point or a comma before the decimals, and with thousands set apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

#: How the numbers of a column are written: as programs write them, with a decimal comma, with commas between thousands.
Writing: TypeAlias = Literal["", ",", "1,000"]

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?|[+-]?,\d+")
_THOUSANDS = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?")
#: What cannot be told from thousands.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_READ = {"": _PLAIN, ",": _COMMA, "1,000": _THOUSANDS}


def number_of(text: str, writing: str = "") -> float | None:
    """The number that a text says; None where it says none. Only ASCII digits count.

    >>> number_of(" 1.5e3"), number_of("1.234,5", ","), number_of("1,234.5", "1,000"), number_of("n/a")
    (1500.0, 1234.5, 1234.5, None)
    """
    text = text.strip()
    if not text.isascii() or not _READ[writing].fullmatch(text):
        return None
    if writing == ",":
        text = text.replace(".", "").replace(",", ".")
    return float(text.replace(",", ""))


def writing_of(texts: Sequence[str]) -> Writing:
    """How the numbers among the texts are written.

    >>> writing_of(["1.5", "2"]), writing_of(["0,5", "x", "12"]), writing_of(["1,200", "3,000,000"])
    ('', ',', '1,000')
    """
    with_comma = [text.strip() for text in texts if "," in text]
    if not any(_COMMA.fullmatch(text) or _THOUSANDS.fullmatch(text) for text in with_comma):
        return ""
    numbers = [text for text in with_comma if _COMMA.fullmatch(text) or _THOUSANDS.fullmatch(text)]
    return "1,000" if all(_GROUPED.fullmatch(text) for text in numbers) else ","
