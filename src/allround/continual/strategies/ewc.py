"""EWC: weights that earlier answers depend on are held."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Kirkpatrick et al., PNAS 2017, arXiv:1612.00796",
    paper="Overcoming catastrophic forgetting in neural networks",
)
def ewc(*, weight: float = 1.0, rows: int = 200) -> Strategy:
    """Tune the model on each arrival with the guard `ewc`. weight, rows: see there."""
    return Strategy(guards={"ewc": {"weight": weight, "rows": rows}})
