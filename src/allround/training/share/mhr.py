"""Multi-head routing: Polytropon with weights of each part of the skills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="Multi-Head Adapter Routing for Cross-Task Generalization",
    source="Caccia et al., NeurIPS 2023, arXiv:2211.03831, section 3.1; tuners/poly of huggingface/peft",
)
def mhr(
    *,
    skills: int = 8,
    rank: int = 4,
    heads: int = 4,
    relaxed: float = 1.0,
    site: str = "linear",
    alpha: float = 16.0,
    rate: float = 1e-3,
    start: Mapping[str, Sequence[float]] | None = None,
) -> Plan:
    """As poly, but what A reads and what B gives are cut into `heads` parts, and a task weighs its skills for each of
    them apart.

    start: the probability of each skill for each task as training begins; near one half for all where it is None.
    `--share mhr:alike=PATH` takes it from what `allround relate` found.

    A new task is adapted to by its weights alone (MHR-z) or from the mean of the skills (MHR-mu):
    `allround.training.adapting.adapt`. Differs: changes are scaled by `alpha` / `rank`, for the authors 1 / rank.
    """
    gate = Choice("skills", {"heads": heads, "relaxed": relaxed})
    bank = Choice("lora", {"rank": rank, "alpha": alpha, "mix": "factors", "heads": heads})
    return Plan(inserts=(Insert(site, Mixing(bank, gate, shared=skills, start=start or {})),), frozen=True, rate=rate)
