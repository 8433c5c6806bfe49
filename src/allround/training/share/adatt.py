"""AdaTT: experts of each task that all tasks weigh, and the own ones once more."""

from __future__ import annotations

from typing import Literal

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Li et al., KDD 2023, arXiv:2304.04959; checked against AdaTTSp and AdaTTWSharedExps in mtl_lib.py of "
    "facebookresearch/AdaTT",
    paper="AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations",
)
def adatt(
    *,
    form: Literal["sp", "general"] = "sp",
    experts: int = 1,
    shared: int = 1,
    units: int = 128,
    hidden: int = 0,
    levels: int = 2,
    dropout: float = 0.0,
    rate: float = 1e-3,
) -> Plan:
    """At each level a task's gate weighs the experts of all tasks, from its own stream, and its own experts are added:
    a single one as it is, several by weights that are learned.

    form: "general" has a shared stream with `shared` experts beside those of the tasks. rate: the learning rate of
    experts and gates.
    """
    learned = experts > 1 or (form == "general" and shared > 1)
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    gate = Choice("linear", {"native": "learned" if learned else "ones"})
    owners: Literal["tasks", "tasks+shared"] = "tasks" if form == "sp" else "tasks+shared"
    mixing = Mixing(bank, gate, owners=owners, count=experts, shared=shared)
    return Plan(levels=(Level(mixing, units=units),) * levels, rate=rate)
