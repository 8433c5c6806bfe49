"""ridge: the encoder stays as it is, and heads are solved for on random features, whatever the order."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="RanPAC: McDonnell et al., NeurIPS 2023, arXiv:2307.02251, without its first-session adaptation")
def ridge(*, units: int = 1000) -> Strategy:
    """No gradient and no remembered row: sums over all rows so far give the heads. The order of arrivals does not
    matter. units: see the way to make heads of this name."""
    return Strategy(changes="heads", head="ridge", head_settings={"units": units})
