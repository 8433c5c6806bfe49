"""Diana: prompts of four levels, keys that tell arrivals, and a prompt for rows of none of them."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Dai et al., Findings of ACL 2023, arXiv:2305.06555; formulas as in diana/ of AlibabaResearch/DAMO-ConvAI",
    paper="Domain Incremental Lifelong Learning in an Open World",
)
def diana(
    *,
    bytes: int = 50_000,
    memory: str = "balanced",
    general: int = 2,
    format: int = 4,
    task: int = 8,
    meta: int = 4,
    pool: int = 30,
    chosen: int = 5,
    inside: float = 0.95,
) -> Strategy:
    """In front of a frozen text or vision transformer, a row reads a general prompt, that of its format, that of its
    arrival and the meta prompts near it. The nearest key tells the arrival; a row beyond its boundary is answered
    through the prompt for unseen tasks.

    bytes, memory: as for `er`. general, format, task, meta, pool, chosen: see the way to grow `hierarchy`. inside: see
    the way to select `boundaries`. Differs: see both; remembered rows are drawn by label, where the authors spread them
    over the keys of meta prompts.
    """
    levels = {"general": general, "format": format, "task": task, "meta": meta, "pool": pool, "chosen": chosen}
    return Strategy(
        grow="hierarchy",
        grow_settings=levels,
        select="boundaries",
        select_settings={"inside": inside},
        memory=memory,
        bytes=bytes,
    )
