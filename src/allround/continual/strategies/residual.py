"""residual: a LoRA for each arrival; what is not said about a row is told by keys."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="one adapter for each task: Houlsby et al., ICML 2019; keys as in S-Prompts: Wang et al., NeurIPS 2022")
def residual(*, share: str = "lora", rank: int = 8, select: str = "keys") -> Strategy:
    """The encoder is frozen, and each arrival has modules of its own, so that old tasks answer as before to the bit.
    Where labels compete, the modules of the arrival with the nearest key have most to say.

    share, rank: of the modules; see the way to grow `residual`. select: a method of the family `select`.
    """
    return Strategy(grow="residual", grow_settings={"share": share, "rank": rank}, select=select)
