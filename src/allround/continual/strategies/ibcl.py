"""IBCL: posteriors of heads, one after another, and a head for any trade-off between arrivals without training."""

from __future__ import annotations

from collections.abc import Sequence

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Lu et al., 2023, arXiv:2310.02995",
    paper="IBCL: Zero-shot Model Generation for Task Trade-offs in Continual Learning",
)
def ibcl(*, preference: Sequence[float] | None = None, distance: float = 0.01) -> Strategy:
    """The encoder stays as it is. preference: how much each arrival counts, in their order; None: all the same. What
    has to be beaten is the mean of heads that were fitted to the arrivals. distance: see the way to make heads
    `posterior`. For one question that comes in several domains; where these ask for different heads, `ridge` is far
    better."""
    settings = {"preference": preference, "distance": distance}
    return Strategy(changes="heads", head="posterior", head_settings=settings, scenarios=("domain",))
