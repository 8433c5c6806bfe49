"""DSelect-k: experts that all tasks share, of which each task chooses a few."""

from __future__ import annotations

from typing import Literal

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Hazimeh et al., NeurIPS 2021, arXiv:2106.03760; checked against dselect_k_moe.py of "
    "google-research/google-research"
)
def dselect_k(
    *,
    experts: int = 8,
    chosen: int = 2,
    units: int = 128,
    hidden: int = 0,
    gamma: float = 1.0,
    entropy: float = 0.01,
    reads: Literal["task", "stream"] = "task",
    dropout: float = 0.0,
    rate: float = 1e-3,
) -> Plan:
    """Each task weighs at most `chosen` experts in the end; its choice is its own ("task") or made for each row
    ("stream"). All experts are computed.

    gamma: width of the stretch in which a bit of the choice is between 0 and 1. entropy: weight in the loss of the
    entropy of the choice, reached at the end of the training. rate: the learning rate of experts and gates.
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    gate = Choice("dselect", {"chosen": chosen, "gamma": gamma, "entropy": entropy, "reads": reads})
    return Plan(levels=(Level(Mixing(bank, gate, shared=experts), units=units),), rate=rate)
