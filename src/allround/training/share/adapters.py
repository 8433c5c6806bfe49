"""Adapters: a bottleneck, or a scale and a shift, of each task's own behind the sublayers of a frozen encoder."""

from __future__ import annotations

from typing import Literal

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    source="Houlsby et al., ICML 2019, section 2.1; Pfeiffer et al., EACL 2021 (one behind the feed-forward part "
    "alone); checked against modeling.py of google-research/adapter-bert; scales and shifts: Perez et al., AAAI 2018"
)
def adapters(*, form: Literal["houlsby", "pfeiffer", "film"] = "houlsby", units: int = 64, rate: float = 1e-3) -> Plan:
    """Each task has a bottleneck of `units` numbers behind the attention and the feed-forward part of each block, or
    behind the latter alone ("pfeiffer"), before what came in is added. It begins near zero, so that the answers begin
    near those of the base. With "film" a task scales and shifts each number that both parts give, and has no bottleneck
    nor `units`: these are the fewest numbers for each task.

    Differs: layer normalisations stay as they are; GELU is exact, where the authors' code approximates it.
    """
    site = "feed_forward_output" if form == "pfeiffer" else "sublayers"
    bank = Choice("film") if form == "film" else Choice("bottleneck", {"units": units})
    mixing = Mixing(bank, owners="tasks", sees="own")
    return Plan(inserts=(Insert(site, mixing),), frozen=True, rate=rate)
