"""Comparisons of joint trainings, over several seeds and beside the specialists."""

from allround.evaluation.training.comparison import FILES, TrainingComparison
from allround.evaluation.training.measure import measure
from allround.evaluation.training.results import (
    EQUAL,
    SPECIALISTS,
    Baseline,
    Difference,
    Estimate,
    Measured,
    Reference,
    Training,
    TrainingCost,
    TrainingResults,
    Tried,
)

__all__ = [
    "EQUAL",
    "FILES",
    "SPECIALISTS",
    "Baseline",
    "Difference",
    "Estimate",
    "Measured",
    "Reference",
    "Training",
    "TrainingComparison",
    "TrainingCost",
    "TrainingResults",
    "Tried",
    "measure",
]
