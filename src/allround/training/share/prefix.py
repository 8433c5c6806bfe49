"""Prefix tuning: vectors of each task in front of what each block reads."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    source="Li and Liang, ACL 2021, arXiv:2101.00190; vectors anew in front of each block: Jia et al., ECCV 2022 "
    "(VPT-deep); checked against tuners/prefix_tuning of huggingface/peft",
    exempt={"near_base": "the encoder attends to vectors that it has not seen before"},
)
def prefix(*, length: int = 8, deviation: float = 0.02, rate: float = 1e-2) -> Plan:
    """Each task has `length` vectors in front of what each block of a frozen text or vision transformer reads.

    Differs: keys and values follow from the vectors by the block's own matrices, and no network makes the vectors.
    """
    mixing = Mixing(Choice("prompt", {"deviation": deviation}), owners="tasks", sees="own")
    return Plan(inserts=(Insert("blocks", mixing, length=length),), frozen=True, rate=rate)
