"""energy: what it takes to answer a thousand rows, in watt-hours, and the carbon that comes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allround.core.registry import method
from allround.evaluation.measuring import RESAMPLES, Measured, MeasureView
from allround.evaluation.power import power


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
        read = power(lambda few=few: len(answer(few)), country, asked)  # type: ignore[misc]
        meters = "by meters" if read.metered else "estimated from nominal power: it cannot be measured here"
        for what, value in (("Wh", read.watt_hours), ("g CO2e", read.carbon)):
            named = f"{what} for 1,000 rows of {name} in batches of 64 ({meters}, {country})"
            found.append(Measured(named, value, np.full(RESAMPLES, math.nan), share=False))
    return found
