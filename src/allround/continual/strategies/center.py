"""Center loss: new rows of a label are pulled to where its old rows were."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Olpadkar and Gavas, arXiv:2110.11314, from the abstract",
    paper="Center Loss Regularization for Continual Learning",
)
def center(*, weight: float = 0.001, hold_heads: bool = False) -> Strategy:
    """Tune the model on each arrival with the guard `center`, for the same labels on other rows (the scenario domain).
    A centre for each label is remembered. weight, hold_heads: see there.

    On digits that are turned further with each arrival it kept no more than `none` does; more weight, and held heads,
    which the abstract suggests, kept less.
    """
    return Strategy(guards={"center": {"weight": weight, "hold_heads": hold_heads}}, scenarios=("domain",))
