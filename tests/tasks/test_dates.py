"""Dates: what says one, in which spelling, and the numbers that stand for it."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allround.tasks.dates import PARTS, date_days, date_formats, date_numbers, date_of

NOON = datetime.datetime(2024, 2, 29, 12, 30)


@pytest.mark.parametrize(
    "value",
    [
        "2024-02-29T12:30",
        " 2024-02-29 12:30:00 ",
        "2024-02-29T12:30:00.000Z",
        "2024-02-29T14:30:00,0+02:00",
        "2024-02-29 07:30 -0500",
        NOON,
        NOON.replace(tzinfo=datetime.timezone.utc),
        pd.Timestamp("2024-02-29 13:30", tz="Europe/Berlin"),
        np.datetime64("2024-02-29T12:30", "ns"),
    ],
)
def test_a_moment_in_every_spelling(value: Any) -> None:
    assert date_of(value) == NOON and type(date_of(value)) is datetime.datetime


@pytest.mark.parametrize("value", ["", "2024", "20240229", "2024-02-30", "29.2.2024", "soon", 5.0, None, pd.NaT, True])
def test_what_is_no_date(value: Any) -> None:
    assert date_of(value) is None and all(math.isnan(number) for number in date_numbers(value))


def test_the_numbers_agree_with_pandas() -> None:
    moments = pd.date_range("1969-12-30 05:45", periods=60, freq="37D5h")
    for moment in moments:
        expected = (
            (moment - pd.Timestamp(0)) / pd.Timedelta(days=1), moment.year, moment.month, moment.day,
            moment.dayofweek, moment.hour + moment.minute / 60,
        )  # fmt: skip
        assert date_numbers(moment) == date_numbers(str(moment)) == pytest.approx(expected, abs=1e-9)
        assert date_days(moment) == date_numbers(moment)[PARTS.index("days")]


def test_formats_of_a_column() -> None:
    days = [f"{day}/{month}/2023" for day, month in [(1, 2), (13, 2), (3, 12)]]
    assert date_formats(days) == ["%d/%m/%Y"] and date_of(days[1], "%d/%m/%Y") == datetime.datetime(2023, 2, 13)
    assert date_formats(["12-31-2023 10:00"]) == ["%m-%d-%Y"]
    assert date_formats(["2023-01-01"] * 9 + ["never"], 0.9) == [""] and date_formats(["x"] * 100 + days) == []
    assert date_formats([]) == []
