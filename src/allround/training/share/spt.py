"""Semi-parametric prompt tuning: a row takes its prompt from a memory of prompts that all tasks share."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Insert, Mixing, Plan


@method(
    paper="SPT: Semi-Parametric Prompt Tuning for Multitask Prompted Learning",
    source="Bari et al., 2022, arXiv:2212.10929, section 3; the authors give no code",
    exempt={"near_base": "the encoder attends to vectors that it has not seen before"},
)
def spt(*, memory: int = 16, k: int = 4, length: int = 8, rate: float = 1e-2) -> Plan:
    """All tasks share `memory` prompts of `length` vectors. A row takes the `k` whose keys are most like the mean of
    its embedded input.

    Differs: keys are learned and there is one set of them, so that all tasks look up alike; what is taken is averaged
    by the likeness, in place of standing one behind the other.
    """
    mixing = Mixing(Choice("prompt"), Choice("prototype", {"k": k}), shared=memory, gates="common")
    return Plan(inserts=(Insert("input", mixing, length=length),), frozen=True, rate=rate)
