"""HyperFormer: one network makes the adapters of all tasks and layers."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Generator, Insert, Mixing, Plan, Vectors


@method(
    paper="Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks",
    source="Karimi Mahabadi et al., ACL 2021, arXiv:2106.04489 (HyperFormer++); checked against adapter_controller.py "
    "and adapter_utils.py of rabeehk/hyperformer",
)
def hyperformer(*, units: int = 16, size: int = 64, hidden: int = 128, norm: bool = False, rate: float = 1e-3) -> Plan:
    """Adapters of `units` numbers behind the attention and the feed-forward part of each block, whose weights a network
    makes from a vector of the task, one of the block and one of the place in it, of `size` numbers each.

    norm: bring what adapters give to a variance of 1, with a scale of 1 plus what the network makes; it begins far from
    the base then. Differs: the authors' code always does so, with a scale of 0 plus that, which begins at nothing.
    """
    mixing = Mixing(Choice("bottleneck", {"units": units, "norm": norm}), owners="tasks", sees="own")
    generator = Generator(units=hidden, places=size)
    inserts = (Insert("sublayers", mixing, generator=generator),)
    return Plan(inserts=inserts, frozen=True, rate=rate, vectors=Vectors(size))
