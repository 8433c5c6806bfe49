"""C-Poly: skills that all tasks share, and skills of each task's own beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="Customizable Combination of Parameter-Efficient Modules for Multi-Task Learning",
    source="Wang et al., ICLR 2024, arXiv:2312.03248, section 3; the authors give no code",
)
def c_poly(
    *,
    skills: int = 3,
    own: int = 1,
    rank: int = 4,
    relaxed: float = 1.0,
    site: str = "linear",
    alpha: float = 16.0,
    rate: float = 1e-3,
    start: Mapping[str, Sequence[float]] | None = None,
) -> Plan:
    """As poly with `skills` that tasks share, and `own` low-rank changes of each task, which it always uses.

    start: the probability of each shared skill for each task as training begins; near one half for all where it is
    None. `--share c_poly:alike=PATH` takes it from what `allround relate` found.

    Differs: changes are scaled by `alpha` / `rank`.
    """
    bank = Choice("lora", {"rank": rank, "alpha": alpha, "mix": "factors"})
    gate = Choice("skills", {"relaxed": relaxed})
    mixing = Mixing(bank, gate, owners="tasks+shared", count=own, shared=skills, sees="own+shared", start=start or {})
    return Plan(inserts=(Insert(site, mixing),), frozen=True, rate=rate)
