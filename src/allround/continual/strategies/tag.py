"""TAG: steps are smaller where the gradients of earlier arrivals were large and point elsewhere."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Malviya et al., CoLLAs 2022, arXiv:2105.05155; tag_update.py of pranshu28/TAG (TAG-Adam)",
    paper="TAG: Task-based Accumulated Gradients for Lifelong learning",
)
def tag(*, focus: float = 5.0, matched: bool = True) -> Strategy:
    """Tune the model on each arrival with the guard `tag`. focus, matched: see there. No row is remembered, but two
    numbers for each weight and arrival."""
    return Strategy(guards={"tag": {"focus": focus, "matched": matched}})
