"""Numbers and names in words: shares, scores, intervals, counts, times."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(value: float, *, signed: bool = False) -> str:
    """A share x 100 with one decimal.

    >>> percent(0.9731), percent(0.021, signed=True), percent(-0.0001)
    ('97.3', '+2.1', '0.0')
    """
    rounded = round(100 * value, 1) + 0.0
    return f"{rounded:+.1f}" if signed and rounded else f"{rounded:.1f}"


def shown(score: float, better: str = "higher") -> str:
    """A score as people read it: x 100, or in the metric's own units where lower scores are better.

    >>> shown(0.8125), shown(0.8125, "lower")
    ('81.2', '0.812')
    """
    return percent(score) if better == "higher" else f"{score:.3g}"


def span_text(low: float | None, high: float | None, *, better: str = "higher", signed: bool = False) -> str:
    """An interval in brackets, after a space; empty where there is none.

    >>> span_text(0.961, 0.984)
    ' [96.1, 98.4]'
    """
    if low is None or high is None:
        return ""
    low_text, high_text = (percent(v, signed=True) if signed else shown(v, better) for v in (low, high))
    return f" [{low_text}, {high_text}]"


def share_text(value: float | None) -> str:
    """A share in percent with two digits.

    >>> [share_text(x) for x in (0.41234, 0.0123, 1.414, 0.0, 2e-7, 0.9999)]
    ['41%', '1.2%', '141%', '0%', '0.00002%', '99.99%']
    """
    if value is None:
        return "-"
    x = 100 * abs(value)
    digits = 0 if x >= 10 or x == 0 else min(7, 1 - math.floor(math.log10(x)))
    if 99 < x < 100:
        digits = min(4, max(0, -math.floor(math.log10(100 - x))))
    text = f"{x:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{'-' if value < 0 and float(text) else ''}{text}%"


def cosine_text(value: float | None) -> str:
    """A cosine with two decimals.

    >>> cosine_text(0.0312), cosine_text(-0.001), cosine_text(None)
    ('0.03', '0.00', '-')
    """
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"


def number_text(value: float | None) -> str:
    """A number with three digits, or all of a whole part of more.

    >>> number_text(12.345), number_text(1234.5), number_text(0.00012345), number_text(None)
    ('12.3', '1234', '0.000123', '-')
    """
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def count(value: float | None) -> str:
    """A count in few letters.

    >>> count(22_700_000), count(1234), count(999), count(None)
    ('22.7 M', '1,234', '999', '')
    """
    if value is None:
        return ""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= 0.99995 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 1000:.0f} k" if value >= 99_999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(0.4), duration(75), duration(5400)
    ('0.4 s', '1 min 15 s', '1 h 30 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def size_text(number: float) -> str:
    """Bytes in few letters.

    >>> size_text(1_400_000_000), size_text(1500), size_text(12)
    ('1.4 GB', '1.5 kB', '12 B')
    """
    for limit, word in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.1f} {word}"
    return f"{number:.0f} B"


def rate(value: float) -> str:
    """A learning rate in few letters.

    >>> rate(0.001), rate(1e-5 / 3)
    ('0.001', '3.33e-06')
    """
    return f"{value:.3g}"


def gibibytes(size: int | None) -> str:
    """A size of memory; size: bytes.

    >>> gibibytes(3 * 2**29), gibibytes(None)
    ('1.50 GiB', '')
    """
    return "" if size is None else f"{size / 2**30:.2f} GiB"


def plural(number: int, noun: str) -> str:
    """A number of things.

    >>> plural(1, "task"), plural(2100, "row")
    ('1 task', '2,100 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def printable(text: str) -> str:
    r"""Text that cannot steer a terminal, and that any file may hold: each control character becomes a "?".

    >>> printable("a\x1b[31mb")
    'a?[31mb'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
