"""MMoE: experts that all tasks share, and a gate of each task that weighs them for each row."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Ma et al., KDD 2018, equations 6 and 7; checked against mmoe.py of drawbridge/keras-mmoe and mtl_lib.py of "
    "facebookresearch/AdaTT"
)
def mmoe(
    *, experts: int = 8, units: int = 128, hidden: int = 0, levels: int = 1, dropout: float = 0.0, rate: float = 1e-3
) -> Plan:
    """Each expert is a perceptron with `hidden` layers of `units` numbers before its last; gates are linear, and read
    what the encoder gives.

    levels: with more than one, each expert of a level reads a mix of those before it, by a gate of its own. rate: the
    learning rate of experts and gates.

    >>> mmoe(experts=4).levels[0].mixing.shared
    4
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    level = Level(Mixing(bank, Choice("linear"), shared=experts), units=units, gate_reads="input")
    return Plan(levels=(level,) * levels, rate=rate)
