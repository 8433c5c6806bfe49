"""Awaker: sparse low-rank experts, and one that is always on."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan, Vectors


@method(
    paper="Awaker2.5-VL: Stably Scaling MLLMs with Parameter-Efficient Mixture of Experts",
    source="Long et al., 2024, arXiv:2411.10669, section 3",
)
def awaker(
    *,
    experts: int = 4,
    k: int = 2,
    rank: int = 8,
    size: int = 64,
    site: str = "linear",
    rate: float = 1e-3,
) -> Plan:
    """At each linear layer of a frozen encoder, low-rank changes of rank `rank`: one that is always on, and `experts`
    others, of which a gate chooses `k` for each token from the token beside a vector of the task, of `size` numbers.

    Differs: the authors' gates read the embedded instruction, which a task's vector stands for.
    """
    gate = Choice("noisy_topk", {"k": k, "always": 1})
    mixing = Mixing(Choice("lora", {"rank": rank}), gate, shared=experts + 1, gates="common", reads="both")
    return Plan(inserts=(Insert(site, mixing),), frozen=True, rate=rate, vectors=Vectors(size))
