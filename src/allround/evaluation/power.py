"""What it takes to answer rows: watt-hours and grams of CO2e, read by CodeCarbon from the meters of the machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from allround.core.errors import AllroundError, suggestion

#: Seconds for which rows are answered at least, again and again, so that a meter that is read each second sees it.
SECONDS = 5.0
#: What CodeCarbon calls the ways in which it reads no meter of the processor.
_GUESSED = ("constant", "cpu_load")


@dataclass(frozen=True)
class Power:
    """What answering 1,000 rows takes: Wh, and g CO2e. metered: whether the processor has a meter; otherwise CodeCarbon
    works with its nominal power, which is no measurement."""

    watt_hours: float
    carbon: float
    metered: bool


def power(answer: Callable[[], int], country: str, asked: str) -> Power:
    """Answer rows for some seconds while CodeCarbon reads the meters of processor and GPU, offline.

    answer: answers some rows, and says how many. country: three letters, such as DEU, whose mix of sources makes carbon
    of energy. asked: what messages call this. Formula: energy of the machine while answering x 1,000 / rows answered.
    Errors: no CodeCarbon; a country that it does not know; no reading.
    """
    tracker = _tracker(country, asked)
    answer()  # what is done once, at first
    count, started = 0, time.perf_counter()
    tracker.start()
    while not count or time.perf_counter() - started < SECONDS:
        count += answer()
    tracker.stop()
    read = getattr(tracker, "final_emissions_data", None)
    if read is None:
        raise AllroundError(asked, "CodeCarbon gave no reading", "run OfflineEmissionsTracker alone to see why")
    return Power(1e6 * read.energy_consumed / count, 1e6 * read.emissions / count, _metered(tracker))


def has_meter(country: str, asked: str) -> bool:
    """Whether CodeCarbon reads a meter of this machine's processor. Errors: as `power`."""
    return _metered(_tracker(country, asked))


def _tracker(country: str, asked: str) -> Any:
    try:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.input import DataSource
    except ImportError as error:
        raise AllroundError(asked, "codecarbon is not installed", "pip install 'allround[energy]'") from error
    known = sorted(DataSource().get_global_energy_mix_data())
    if country not in known:
        raise AllroundError(asked, f"CodeCarbon knows no country '{country}'", suggestion(country, known))
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return OfflineEmissionsTracker(country_iso_code=country, save_to_file=False, log_level="critical",
                                   measure_power_secs=1, allow_multiple_runs=True)  # fmt: skip


def _metered(tracker: Any) -> bool:
    """Whether no part of the machine but its memory has its power guessed."""
    return all(getattr(part, "_mode", None) not in _GUESSED for part in tracker._hardware)
