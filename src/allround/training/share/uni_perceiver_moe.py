"""Conditional experts whose gate reads what a task is like."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan, Vectors


@method(
    paper="Uni-Perceiver-MoE: Learning Sparse Generalist Models with Conditional MoEs",
    source="Zhu et al., NeurIPS 2022, arXiv:2206.04674; checked against task_moe/{gate,layer,experts}.py of "
    "fundamentalvision/Uni-Perceiver",
)
def uni_perceiver_moe(
    *, experts: int = 4, k: int = 2, hidden: int = 16, every: int = 2, rate: float | None = None
) -> Plan:
    """Each linear layer of each second block (`every`) has `experts` copies. A gate reads marks of the task (what it
    reads, whether a pair, whether word by word, what it answers), and the weights of the `k` best copies are averaged
    before one product.

    A new task with the marks of another uses the same copies. Differs: no limit on what an expert takes, so that no row
    depends on others.
    """
    gate = Choice("noisy_topk", {"k": k, "hidden": hidden})
    bank = Choice("delta", {"deviation": 1e-4})
    mixing = Mixing(bank, gate, shared=experts, gates="common", reads="task")
    return Plan(inserts=(Insert("linear", mixing, every=every),), rate=rate, vectors=Vectors(8, "attributes"))
