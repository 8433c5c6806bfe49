"""Dates: which values are dates, how they are written (ISO 8601), and the numbers that stand for one in a table."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from allround.tasks.values import is_missing

#: What `date_numbers` gives, in its order. Days are counted from 1970-01-01 with the time of day as a fraction: the
#: age of a date, up to a constant. Months and days of the month begin with 1; weekday 0 is Monday.
PARTS = ("days", "year", "month", "day", "weekday", "hour")

_START = datetime.datetime(1970, 1, 1)
#: A date as ISO 8601 writes it, with what Python before 3.11 reads too.
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?\s?(Z|[+-]\d{2}:?\d{2})?)?")
#: Other ways to write a date; the time of day may follow each.
FORMATS = ("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y")
_TIMES = ("", " %H:%M", " %H:%M:%S")


def date_of(value: object, format: str = "") -> datetime.datetime | None:
    """The moment that a value says, in UTC where it has a time zone and without the zone; None where it is no date.

    A value is a date or datetime of Python, pandas or NumPy, or a text as ISO 8601 writes it, or in `format`, which is
    one of `strptime`; a time of day may follow.

    >>> date_of("2024-02-01T12:00+02:00"), date_of("1.2.2024 9:30", "%d.%m.%Y"), date_of("soon")
    (datetime.datetime(2024, 2, 1, 10, 0), datetime.datetime(2024, 2, 1, 9, 30), None)
    """
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if is_missing(value):
        return None
    if isinstance(value, datetime.datetime):
        zone = value.utcoffset()
        value = datetime.datetime(*value.timetuple()[:6], value.microsecond)  # of pandas too, without its zone
        return value if zone is None else value - zone
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    if not isinstance(value, str):
        return None
    return _of_text(value.strip(), format)


def _of_text(text: str, format: str) -> datetime.datetime | None:
    found: datetime.datetime | None = None
    if _ISO.fullmatch(text):
        plain = text.replace(",", ".").replace(" ", "T", 1).replace(" ", "").replace("Z", "+00:00")
        plain = re.sub(r"\.(\d+)", lambda seconds: "." + seconds[1][:6].ljust(6, "0"), plain)
        plain = re.sub(r"([+-]\d{2})(\d{2})$", r"\1:\2", plain) if "T" in plain else plain
        try:
            found = datetime.datetime.fromisoformat(plain)
        except ValueError:
            return None
        zone = found.utcoffset()
        try:
            return found.replace(tzinfo=None) - (zone or datetime.timedelta())
        except OverflowError:
            return None
    for time in _TIMES if format else ():
        try:
            return datetime.datetime.strptime(text, format + time)
        except ValueError:
            continue
    return None


def is_date(value: object, format: str = "") -> bool:
    """Whether a value says a date: see `date_of`.

    >>> is_date("2024-02-30"), is_date(datetime.date(2024, 2, 29)), is_date(20240229)
    (False, True, False)
    """
    return date_of(value, format) is not None


def date_text(moment: datetime.datetime) -> str:
    """A moment as a table keeps it: a day, and the time of day where there is one.

    >>> date_text(datetime.datetime(2024, 2, 1)), date_text(datetime.datetime(2024, 2, 1, 9, 30))
    ('2024-02-01', '2024-02-01T09:30:00')
    """
    return moment.isoformat() if moment.time() != datetime.time() else moment.date().isoformat()


def date_days(value: object, format: str = "") -> float:
    """Days since 1970-01-01, the time of day as a fraction; NaN for what is no date.

    >>> date_days("1970-01-02T12:00:00"), date_days("soon")
    (1.5, nan)
    """
    found = date_of(value, format)
    return math.nan if found is None else (found - _START) / datetime.timedelta(days=1)


def day_text(days: float) -> str:
    """The inverse of `date_days`, without the time of day.

    >>> day_text(19782.5)
    '2024-02-29'
    """
    return (_START + datetime.timedelta(days=days)).date().isoformat()


def is_format(format: str) -> bool:
    """Whether `strptime` can read dates by this format.

    >>> is_format("%d/%m/%Y"), is_format("%d/%q"), is_format("day")
    (True, False, False)
    """
    try:
        return datetime.datetime.strptime(_START.strftime(format), format) == _START
    except ValueError:
        return False


def date_numbers(value: object, format: str = "") -> tuple[float, ...]:
    """The numbers that stand for a date in a table, as `PARTS` names them; NaN each for what is missing or no date.

    Encoders of tables and trees read dates by this function alone.

    >>> date_numbers("2024-02-29 18:30")  # a Thursday
    (19782.770833333332, 2024.0, 2.0, 29.0, 3.0, 18.5)
    >>> date_numbers(None)[:2]
    (nan, nan)
    """
    found = date_of(value, format)
    if found is None:
        return (math.nan,) * len(PARTS)
    hour = found.hour + found.minute / 60 + found.second / 3600
    days = (found - _START) / datetime.timedelta(days=1)
    return days, float(found.year), float(found.month), float(found.day), float(found.weekday()), hour


def date_formats(texts: Sequence[str], share: float = 1.0) -> list[str]:
    """The formats, of ISO 8601 (written as "") and `FORMATS`, that read at least this share of the texts.

    Days and months that all are at most 12 fit two formats.

    >>> date_formats(["2024-02-29", "2024-03-01 10:00"]), date_formats(["31.12.2023"]), date_formats(["a", "2023"])
    ([''], ['%d.%m.%Y'], [])
    >>> date_formats(["1/2/2024", "3/4/2024"]), date_formats(["1/2/2024", "31/4/2024", "31/5/2024"], 0.6)
    (['%d/%m/%Y', '%m/%d/%Y'], ['%d/%m/%Y'])
    """
    left = ["", *FORMATS]
    for some in (texts[:100], texts) if len(texts) > 100 else (texts,):  # most columns hold no dates: soon seen
        counts = Counter(some).items()
        left = [f for f in left if sum(n for text, n in counts if is_date(text, f)) >= share * len(some) > 0]
    return left[:1] if left[:1] == [""] else left
