"""Hypter: a network makes a task's adapters from what the task's description says."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Generator, Insert, Mixing, Plan, Vectors


@method(
    paper="Learning to Generate Task-Specific Adapters from Task Description",
    source="Ye and Ren, ACL 2021, arXiv:2101.00420; checked against INK-USC/hypter",
)
def hypter(*, units: int = 16, hidden: int = 64, size: int = 64, rate: float = 1e-3) -> Plan:
    """Adapters of `units` numbers behind the feed-forward part of each block, made by a network of each block from the
    task's vector. The encoder itself makes that vector from the task's instruction, or from its name, columns and
    labels, before it is trained; where it reads no texts, the vector has `size` numbers and is learned.

    Differs: the authors' vectors come from a second encoder; their layer normalisations change too.
    """
    mixing = Mixing(Choice("bottleneck", {"units": units}), owners="tasks", sees="own")
    generator = Generator(units=hidden, places=0)
    inserts = (Insert("feed_forward_output", mixing, generator=generator),)
    return Plan(inserts=inserts, frozen=True, rate=rate, vectors=Vectors(size, "description"))
