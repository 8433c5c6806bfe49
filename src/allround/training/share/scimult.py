"""SciMult: each task has its own copy of a part of some blocks, and all share the rest."""

from __future__ import annotations

from typing import Literal

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="Pre-training Multi-task Contrastive Learning Models for Scientific Literature Understanding",
    source="Zhang et al., Findings of EMNLP 2023, arXiv:2305.14232; checked against moe_models.py and "
    "eval_helper.py of yuzhimanhua/SciMult",
)
def scimult(
    *,
    part: Literal["feed_forward", "attention", "both"] = "feed_forward",
    every: int = 2,
    rate: float | None = None,
) -> Plan:
    """Each second block (`every`) has a copy of its feed-forward part, of its attention, or of both for each task; they
    begin as the base has them. Queries and passages of a task go through the same copies. Meant for tasks of the kind
    retrieval, each with its contrastive loss; the paper's other way, an instruction before queries, is `instruction` of
    a task.

    Differs: layer normalisations are shared, where those behind a part are copied too. The authors' configuration has
    copies in each third block.
    """
    mixing = Mixing(Choice("delta"), owners="tasks", sees="own")
    site = "linear" if part == "both" else part
    return Plan(inserts=(Insert(site, mixing, every=every, fixed=True),), rate=rate)
