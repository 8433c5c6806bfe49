"""Prompt tuning: vectors of each task in front of the embedded input."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    source="Lester et al., EMNLP 2021, arXiv:2104.08691; at inputs of images: Jia et al., ECCV 2022 (VPT-shallow); "
    "checked against tuners/prompt_tuning of huggingface/peft",
    exempt={"near_base": "the encoder attends to vectors that it has not seen before"},
)
def prompt_tuning(*, length: int = 16, deviation: float = 0.02, rate: float = 1e-2) -> Plan:
    """Each task has `length` vectors that stand in front of the embedded input of a frozen text or vision transformer.

    deviation: of their numbers as they begin. Differs: they have no position, so that the input keeps its own.
    """
    mixing = Mixing(Choice("prompt", {"deviation": deviation}), owners="tasks", sees="own")
    return Plan(inserts=(Insert("input", mixing, length=length),), frozen=True, rate=rate)
