"""MULTI-LANE: a lane for each arrival beside the blocks of a frozen transformer, and all lanes answer."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="De Min et al., CoLLAs 2024, arXiv:2405.15633; checked against multi_lane/blocks.py of tdemin16/multi-lane",
    paper="Less is more: Summarizing Patch Tokens for efficient Multi-Label Class-Incremental Learning",
)
def multi_lane(*, selectors: int = 20, prompts: int = 20, layers: int = 5) -> Strategy:
    """No row is remembered, and no prompt is chosen: each arrival has selectors, which summarise what a frozen text or
    vision transformer reads, and prompts of its own; all arrivals answer a row, and their outputs compete. Old tasks
    answer as before to the bit. The time of an answer grows with the number of arrivals.

    selectors, prompts, layers: see the encoder `lanes`.

    Differs: features are pooled and scaled as the base does it, where the authors give them the length 1; the class
    token has its position; each lane reads the frozen network anew; further labels of a task with several labels a row
    are refused, while the paper is about these.
    """
    settings = {"selectors": selectors, "prompts": prompts, "layers": layers}
    return Strategy(grow="own_lane", grow_settings=settings, select="outputs", scenarios=("class", "task"))
