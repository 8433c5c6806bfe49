"""MTAN: one shared network, and masks of each task over the numbers of each of its layers."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(source="Liu et al., CVPR 2019, arXiv:1803.10704, section 3; checked against architecture/MTAN.py of LibMTL")
def mtan(*, units: int = 128, levels: int = 2, dropout: float = 0.0, rate: float = 1e-3) -> Plan:
    """At each level a task's stream is the shared layer times a mask, which reads that layer and the task's stream.

    Differs: layers behind the encoder, and masks that are linear in it, without batch normalisation; no layer that
    tasks share widens the masked stream.
    """
    mixing = Mixing(
        Choice("mlp", {"dropout": dropout}), Choice("mask", {"channels": units}), shared_gate=Choice("even")
    )
    level = Level(mixing, units=units, outputs="both", gate_reads="outputs+stream")
    return Plan(levels=(level,) * levels, rate=rate)
