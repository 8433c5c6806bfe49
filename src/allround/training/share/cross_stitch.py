"""Cross-stitch: a network of each task's own, whose streams are mixed behind each layer."""

from __future__ import annotations

from typing import Literal

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Misra et al., CVPR 2016, arXiv:1604.03539, equation 1; checked against CrossStitch in mtl_lib.py of AdaTT"
)
def cross_stitch(
    *,
    units: int = 128,
    levels: int = 2,
    keep: float = 0.9,
    by: Literal["stream", "channel"] = "stream",
    dropout: float = 0.0,
    rate: float = 1e-3,
) -> Plan:
    """Each task has a layer of `units` numbers at each of `levels`; behind it, its stream is a weighed sum of all.

    keep: the weight of a task's own stream at first; the others share what is left of 1. by: one weight for each pair
    of tasks, or one for each of their numbers ("channel"). rate: the learning rate of layers and weights.

    Differs: copies of layers behind the encoder, and not of the encoder.
    """
    settings = {"form": "plain", "start": "near_own", "keep": keep, "channels": units if by == "channel" else 0}
    mixing = Mixing(Choice("mlp", {"dropout": dropout}), Choice("free", settings), owners="tasks")
    return Plan(levels=(Level(mixing, units=units),) * levels, rate=rate)
