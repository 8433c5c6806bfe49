"""l2: all shared weights are held alike, where the last arrival left them."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="the plain quadratic penalty that EWC is compared with: Kirkpatrick et al., PNAS 2017, figure 2")
def l2(*, weight: float = 0.1) -> Strategy:
    """Tune the model on each arrival with the guard `l2_sp`. weight: see there."""
    return Strategy(guards={"l2_sp": {"weight": weight}})
