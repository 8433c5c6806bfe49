"""A modular transformer: experts in attention and feed-forward parts, which tasks learn to divide among them."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="An Efficient General-Purpose Modular Vision Model via Multi-Task Heterogeneous Training",
    source="Chen et al., 2023, arXiv:2306.17165, section 3; the authors give no code",
)
def modular_vit(
    *,
    experts: int = 4,
    k: int = 2,
    attention: int = 4,
    rank: int = 8,
    mutual: float = 0.01,
    rate: float | None = None,
) -> Plan:
    """Each block has `experts` copies of its feed-forward part, and `attention` low-rank changes of rank `rank` at each
    layer of its attention; each task's own gates choose `k` of them for each token. The mutual information of tasks and
    modules times `mutual` is taken off the loss, so that tasks come to use different ones and use them all.

    Differs: experts of the attention are low-rank changes, and not sets of heads; no expert is taken from a task after
    the training.
    """
    gate = Choice("noisy_topk", {"k": k})
    inserts = (
        Insert("attention", Mixing(Choice("lora", {"rank": rank}), gate, shared=attention, mutual=mutual)),
        Insert("experts", Mixing(Choice("delta", {"deviation": 1e-4}), gate, shared=experts, mutual=mutual)),
    )
    return Plan(inserts=inserts, rate=rate)
