"""DTRN, the half that needs no sequences: each task scales the features for itself, by squeeze and excite."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Liu et al., CIKM 2023 (Deep Task-specific Bottom Representation Network), the refinement module; from its "
    "abstract, no code of the authors is known"
)
def dtrn(*, reduction: int = 4, rate: float = 1e-3) -> Plan:
    """Each task scales each number that the encoder gives by what a small net of its own makes of all of them; it
    begins as the identity.

    reduction: how many times fewer numbers that net has inside. Differs: the first half, weights that are generated for
    sequences of behaviour, is left out, and no further layers stand behind it.
    """
    mixing = Mixing(Choice("squeeze_excite", {"reduction": reduction}), owners="tasks", sees="own")
    return Plan(levels=(Level(mixing, units=0),), rate=rate)
