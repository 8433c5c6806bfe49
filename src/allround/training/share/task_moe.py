"""Task-level mixture of experts: which feed-forward experts a task uses follows from a vector of the task."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan, Vectors


@method(
    paper="Eliciting and Understanding Cross-Task Skills with Task-Level Mixture-of-Experts",
    source="Ye et al., Findings of EMNLP 2022, arXiv:2205.12701; checked against INK-USC/CrossTaskMoE",
)
def task_moe(
    *,
    experts: int = 3,
    size: int = 128,
    hidden: int = 64,
    hard: bool = True,
    first: float = 2.0,
    last: float = 0.1,
    rate: float | None = None,
) -> Plan:
    """Each block has `experts` copies of its feed-forward part. A router in each block reads the task's vector of
    `size` numbers, and draws one of them for the task in training (`hard=false`: a mix), with a temperature that falls
    from `first` to `last`; after it, a task has the one of the largest logit.

    Differs: attention is shared, where the authors copy whole blocks; there is one stage of training; the authors' code
    draws after training too.
    """
    gate = Choice("gumbel", {"hidden": hidden, "hard": hard, "first": first, "last": last})
    mixing = Mixing(Choice("delta", {"deviation": 1e-4}), gate, shared=experts, gates="common", reads="task")
    return Plan(inserts=(Insert("experts", mixing),), rate=rate, vectors=Vectors(size))
