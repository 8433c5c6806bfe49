"""ScaLearn: adapters of single tasks first, then a scale of each task's adapters for each other task."""

from __future__ import annotations

from typing import Literal

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to Scale",
    source="Frohmann et al., Findings of ACL 2024, arXiv:2310.01217; checked against CPJKU/ScaLearn",
)
def scalearn(
    *,
    form: Literal["scalearn", "uniform", "shared", "shared_uniform"] = "scalearn",
    units: int = 16,
    dropout: float = 0.3,
    rate: float = 1e-3,
) -> Plan:
    """In the first half of the training each task learns adapters of `units` numbers behind the feed-forward parts. In
    the second half these stay, and each task learns what it scales each task's adapters by, with no softmax.

    form: a scale for each number and layer ("scalearn"), one for each layer ("uniform"), one for each number, the same
    at all layers ("shared": ScaLearn++), or a single one ("shared_uniform"). dropout: of scales in training. Differs:
    both stages are halves of one training, at one rate (the authors' second stage has 6e-3).
    """
    gate = Choice("scale", {"uniform": form in ("uniform", "shared_uniform"), "dropout": dropout})
    mixing = Mixing(Choice("bottleneck", {"units": units}), gate, owners="tasks", sees="all", stages=True)
    insert = Insert("feed_forward_output", mixing, tied=form.startswith("shared"))
    return Plan(inserts=(insert,), frozen=True, rate=rate)
