"""CGC: experts of each task and shared ones, at one level."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(source="Tang et al., RecSys 2020, section 4.1; checked against class PLE with one level in mtl_lib.py of AdaTT")
def cgc(
    *, experts: int = 2, shared: int = 2, units: int = 128, hidden: int = 0, dropout: float = 0.0, rate: float = 1e-3
) -> Plan:
    """A task's gate weighs its own `experts` and the `shared` ones, for each row; it is `ple` with one level.

    hidden: layers of `units` numbers before the last of an expert. rate: the learning rate of experts and gates.
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    mixing = Mixing(bank, Choice("linear"), owners="tasks+shared", count=experts, shared=shared, sees="own+shared")
    return Plan(levels=(Level(mixing, units=units),), rate=rate)
