"""APEM, the half that needs no fields: each task attends to a bank of patterns."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Adaptive Pattern Extraction Multi-Task Learning, arXiv:2301.02494, the pattern selector, from its "
    "abstract; no code of the authors is known"
)
def apem(*, patterns: int = 8, units: int = 128, hidden: int = 0, dropout: float = 0.0, rate: float = 1e-3) -> Plan:
    """Perceptrons extract `patterns` from what the encoder gives; a task weighs them by the products of a vector of its
    own with each of them, for each row.

    Differs: the transformer over groups of fields is left out; how the paper selects is not in its abstract.
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    level = Level(Mixing(bank, Choice("indicator"), shared=patterns), units=units, gate_reads="outputs")
    return Plan(levels=(level,), rate=rate)
