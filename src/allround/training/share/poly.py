"""Polytropon: a few low-rank skills that all tasks share, and which of them each task uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    source="Ponti et al., EACL 2023, arXiv:2202.13914; checked against the folder modeling of McGill-NLP/polytropon"
)
def poly(
    *,
    skills: int = 8,
    rank: int = 4,
    relaxed: float = 1.0,
    site: str = "linear",
    rate: float = 1e-3,
    start: Mapping[str, Sequence[float]] | None = None,
) -> Plan:
    """At each linear layer of the site a task averages the factors of its skills: A and B apart, before they are
    multiplied. Which skills a task has is drawn from a relaxed Bernoulli in training, and is its probability after it.

    start: the probability of each skill for each task as training begins; near one half for all where it is None.
    `--share poly:alike=PATH` takes it from what `allround relate` found.

    Differs: the authors' code puts skills at the layers of the attention alone (`site="attention"`).
    """
    gate = Choice("free", {"form": "sigmoid", "start": "random", "relaxed": relaxed, "shares": True})
    bank = Choice("lora", {"rank": rank, "alpha": 1.0, "mix": "factors"})
    return Plan(inserts=(Insert(site, Mixing(bank, gate, shared=skills, start=start or {})),), frozen=True, rate=rate)
