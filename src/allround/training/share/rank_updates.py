"""Incremental rank updates: each task has matrices of rank 1, and weighs those of the others beside them."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(source="Hyder et al., ECCV 2022, arXiv:2207.09074, from the abstract")
def rank_updates(*, rank: int = 8, keep: float = 0.9, rate: float = 1e-3) -> Plan:
    """At each linear layer or convolution of a frozen encoder a task has `rank` matrices of rank 1, and a selector: a
    number for each of them, and for each matrix of the other tasks that are there.

    keep: the sum of a task's own numbers as training begins; those of the others share the rest.
    Differs: the weights of the encoder are no sum of such matrices, and no selector weighs them.
    """
    bank = Choice("lora", {"rank": 1, "alpha": 2.0 * rank})
    gate = Choice("free", {"start": "near_own", "keep": keep})
    mixing = Mixing(bank, gate, owners="tasks", count=rank, sees="all")
    return Plan(inserts=(Insert("linear", mixing),), frozen=True, rate=rate)
