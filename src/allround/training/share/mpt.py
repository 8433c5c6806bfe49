"""Multitask prompt tuning: a prompt that all tasks share, times a matrix of low rank of each task."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Generator, Insert, Mixing, Plan


@method(
    source="Wang et al., ICLR 2023, arXiv:2303.02861, equation 1; checked against tuners/multitask_prompt_tuning of "
    "huggingface/peft",
    exempt={"near_base": "the encoder attends to vectors that it has not seen before"},
)
def mpt(*, length: int = 16, ranks: int = 1, rate: float = 1e-2) -> Plan:
    """The prompt of a task is `length` vectors of all tasks times the product of two matrices of `ranks` columns of
    the task, entry by entry.

    Differs: the product begins near 1 (for PEFT near 4e-4); prompts are not taught by those of single tasks.
    """
    mixing = Mixing(Choice("prompt"), owners="tasks", sees="own")
    generator = Generator("factors", ranks=ranks, deviation=0.02)
    return Plan(inserts=(Insert("input", mixing, length=length, generator=generator),), frozen=True, rate=rate)
