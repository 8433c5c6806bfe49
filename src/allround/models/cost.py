"""What a system costs."""

from __future__ import annotations

from dataclasses import dataclass

from allround.core.schema import STRICT


@dataclass(frozen=True)
class Cost:
    """What a system costs.

    training_seconds and training_examples: all training that it rests on, its specialists' too. parameters_stored:
    numbers on disk for all tasks. parameters_used: numbers that one input passes. examples_per_second: when
    predicting. search_choices: settings compared on validation rows, in search_seconds. merge_seconds: of merging
    itself, once; merge_rows: rows that it looked at. watt_hours, carbon: energy to answer 1,000 rows, and grams of
    CO2e, where they were measured.
    """

    __pydantic_config__ = STRICT

    training_seconds: float = 0.0
    training_examples: int = 0
    parameters_stored: int = 0
    parameters_used: int = 0
    examples_per_second: float | None = None
    search_choices: int = 0
    search_seconds: float = 0.0
    merge_seconds: float = 0.0
    merge_rows: int = 0
    watt_hours: float | None = None
    carbon: float | None = None
