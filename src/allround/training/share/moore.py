"""MOORE: experts whose outputs are made orthogonal in each row, and a mix of each task's own."""

from __future__ import annotations

from typing import Literal

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Hendawy et al., ICLR 2024, arXiv:2311.11385; checked against the networks of AhmedMagdyHendawy/MOORE",
    paper="Multi-Task Reinforcement Learning with Mixture of Orthogonal Experts",
)
def moore(
    *,
    experts: int = 4,
    units: int = 128,
    hidden: int = 1,
    after: Literal["tanh", "relu", "none"] = "tanh",
    dropout: float = 0.0,
    rate: float = 1e-3,
) -> Plan:
    """What the experts give is made orthonormal by Gram-Schmidt in each row; a task weighs it by numbers of its own,
    and the activation comes after the mix.

    Differs: experts are perceptrons behind the encoder, and not encoders; an output that depends on those before it
    becomes zero.
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    gate = Choice("free", {"form": "plain", "start": "random", "bound": (3 / experts) ** 0.5})
    level = Level(Mixing(bank, gate, shared=experts), units=units, orthogonal=True, after=after)
    return Plan(levels=(level,), rate=rate)
