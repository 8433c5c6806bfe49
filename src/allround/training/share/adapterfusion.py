"""AdapterFusion: adapters of single tasks first, then each task's attention to all of them."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="AdapterFusion: Non-Destructive Task Composition for Transfer Learning",
    source="Pfeiffer et al., EACL 2021, arXiv:2005.00247; checked against modeling.py and adapter_layer_base.py of "
    "adapter-hub/adapters",
)
def adapterfusion(*, units: int = 16, weight: float = 0.01, rate: float = 1e-3) -> Plan:
    """In the first half of the training each task learns adapters of `units` numbers behind the feed-forward parts. In
    the second half these stay, and each task learns at each layer an attention to the adapters of all tasks.

    weight: of the squared distance of the attention's value matrix from the identity, the mean over layers. Differs:
    both stages are halves of one training; heads are not made anew between them.
    """
    bank, gate = Choice("bottleneck", {"units": units}), Choice("attention", {"weight": weight})
    mixing = Mixing(bank, gate, owners="tasks", sees="all", stages=True)
    return Plan(inserts=(Insert("feed_forward_output", mixing),), frozen=True, rate=rate)
