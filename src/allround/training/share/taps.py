"""TAPS: each task changes few layers of a frozen encoder, and learns which."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="Task Adaptive Parameter Sharing for Multi-Task Learning",
    source="Wallingford et al., CVPR 2022, arXiv:2203.16708; checked against MattWallingford/TAPS",
)
def taps(*, weight: float = 0.1, threshold: float = 0.1, site: str = "linear", rate: float = 1e-4) -> Plan:
    """A layer's weight and bias get a change of the task's own where a score of the task has at least the size of
    `threshold`. The mean size of the scores over layers times `weight` is added to the task's loss.

    Differs: the size of a score counts, and not its sign (the code tests s >= 0.1, so a score cannot come back from
    below); the penalty is there from the first epoch on.
    """
    mixing = Mixing(
        Choice("delta"), Choice("threshold", {"threshold": threshold, "weight": weight}), owners="tasks", sees="own"
    )
    return Plan(inserts=(Insert(site, mixing),), frozen=True, rate=rate)
