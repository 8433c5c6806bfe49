"""energy: what it takes to answer a thousand rows, in watt-hours, and the carbon that comes with it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.evaluation.measuring import RESAMPLES, Measured, MeasureView

#: Seconds for which a task is answered at least, again and again, so that a meter that is read each second sees it.
SECONDS = 5.0
#: What CodeCarbon calls the ways in which it reads no meter of the processor.
_GUESSED = ("constant", "cpu_load")


@method(
    source="Luccioni, Jernite and Strubell, FAccT 2024, arXiv:2311.16863: 1,000 test rows, answering alone; CodeCarbon",
    paper="Power Hungry Processing: Watts Driving the Cost of AI Deployment?",
)
def energy(view: MeasureView, *, country: str, rows: int = 1000) -> Sequence[Measured]:
    """Answer the first `rows` rows of each task while CodeCarbon reads the meters of processor and GPU, offline.

    country: three letters, such as DEU, whose mix of sources makes carbon of energy.
    Formula: energy of the machine while answering, in Wh, x 1,000 / rows answered; grams of CO2e = Wh x the intensity
    of the country. The name of each number says how large batches were, and whether the processor has a meter: where it
    has none, CodeCarbon works with its nominal power, which is no measurement.
    Differs: rows are answered in batches of 64 where the paper answers one at a time; loading is left out, as there.
    Errors: no CodeCarbon; a country that it does not know; answers from files.
    """
    asked = f"measure the energy of answering, with the power of {country}"
    answer = view.answering(asked)
    found: list[Measured] = []
    for name, task in view.tasks.items():
        split = task.splits[view.split]
        few = replace(task, splits={**task.splits, view.split: split.take(range(min(rows, len(split))))}, table=None)
        answer(few)  # what is done once, at first
        tracker = _tracker(country, asked)
        count, started = 0, time.perf_counter()
        tracker.start()
        while not count or time.perf_counter() - started < SECONDS:
            count += len(answer(few))
        tracker.stop()
        read = getattr(tracker, "final_emissions_data", None)
        if read is None:
            raise AllroundError(asked, "CodeCarbon gave no reading", "run OfflineEmissionsTracker alone to see why")
        meters = "by meters" if _metered(tracker) else "estimated from nominal power: it cannot be measured here"
        for what, total in (("Wh", 1000 * read.energy_consumed), ("g CO2e", 1000 * read.emissions)):
            named = f"{what} for 1,000 rows of {name} in batches of 64 ({meters}, {country})"
            found.append(Measured(named, total * 1000 / count, np.full(RESAMPLES, math.nan), share=False))
    return found


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
