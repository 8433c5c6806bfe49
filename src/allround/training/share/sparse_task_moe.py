"""Sparse experts whose gate sees the token and the task."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan, Vectors


@method(
    paper="Sparsely Activated Mixture-of-Experts are Robust Multi-Task Learners",
    source="Gupta et al., 2022, arXiv:2204.07689; gate: Shazeer et al., ICLR 2017; the authors give no code",
)
def sparse_task_moe(
    *,
    experts: int = 4,
    k: int = 2,
    size: int = 64,
    load: float = 0.01,
    every: int = 2,
    tokens: bool = True,
    rate: float | None = None,
) -> Plan:
    """Each second block (`every`) has `experts` copies of its feed-forward part, of which a token uses `k`. One gate
    for all tasks reads the token beside a vector of the task; with `tokens=false` the vector alone.

    load: weight of the penalty on experts that are left out.
    """
    gate = Choice("noisy_topk", {"k": k, "load": load})
    bank = Choice("delta", {"deviation": 1e-4})
    mixing = Mixing(bank, gate, shared=experts, gates="common", reads="both" if tokens else "task")
    return Plan(inserts=(Insert("experts", mixing, every=every),), rate=rate, vectors=Vectors(size))
