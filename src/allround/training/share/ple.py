"""PLE: experts of each task and shared ones, at several levels; with one level it is CGC."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(source="Tang et al., RecSys 2020; checked against class PLE in mtl_lib.py of facebookresearch/AdaTT")
def ple(
    *,
    experts: int = 2,
    shared: int = 2,
    units: int = 128,
    hidden: int = 0,
    levels: int = 2,
    dropout: float = 0.0,
    rate: float = 1e-3,
) -> Plan:
    """A task's gate weighs its own experts and the shared ones, and reads its own stream; the gate of the shared stream
    weighs all experts, and the last level has none.

    experts: of each task; shared: of all tasks. rate: the learning rate of experts and gates.
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    mixing = Mixing(bank, Choice("linear"), owners="tasks+shared", count=experts, shared=shared, sees="own+shared")
    return Plan(levels=(Level(mixing, units=units),) * levels, rate=rate)
