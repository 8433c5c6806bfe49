"""M3ViT: sparse experts in each second block, with a gate of each task."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="M^3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with Model-Accelerator "
    "Co-design",
    source="Liang et al., NeurIPS 2022, arXiv:2210.14793; checked against VITA-Group/M3ViT",
    exempt={"near_base": "the weights that are kept sum to less than 1"},
)
def m3vit(
    *,
    experts: int = 4,
    k: int = 2,
    load: float = 0.01,
    every: int = 2,
    renormalise: bool = False,
    rate: float | None = None,
) -> Plan:
    """Each second block (`every`) has `experts` copies of its feed-forward part. The task's own gate weighs them for
    each token, and the `k` largest weights are kept as they are: they sum to less than 1, so that it begins away from
    the base. renormalise: divide them by their sum.

    load: weight of the penalty on experts that are left out. The authors have 16 experts and k=4.
    """
    gate = Choice("noisy_topk", {"k": k, "load": load, "renormalise": renormalise})
    mixing = Mixing(Choice("delta", {"deviation": 1e-4}), gate, shared=experts)
    return Plan(inserts=(Insert("experts", mixing, every=every),), rate=rate)
