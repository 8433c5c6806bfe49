"""Hard sharing: one encoder for all tasks, and nothing between it and their heads."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(source="Caruana, Machine Learning 28, 1997")
def hard(*, layers: int = 0, units: int = 128, dropout: float = 0.0) -> Plan:
    """The encoder, then `layers` hidden layers of `units` numbers that all tasks share.

    >>> hard().empty
    True
    """
    bank = Choice("mlp", {"units": (units,) * (layers - 1), "dropout": dropout})
    return Plan(levels=(Level(Mixing(bank), units=units),)) if layers else Plan()
