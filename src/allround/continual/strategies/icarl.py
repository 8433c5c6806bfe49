"""iCaRL: rehearsal of herded rows and of old answers, and the nearest mean of remembered rows."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.continual.stream import Scenario
from allround.core.registry import method


@method(source="Rebuffi et al., CVPR 2017, arXiv:1611.07725")
def icarl(*, bytes: int = 50_000, weight: float = 1.0) -> Strategy:
    """Remembers the rows that stand for their label best, tunes the model on these and the new ones, is held by its
    old answers, and answers with the label whose remembered rows have the nearest mean.

    Differs: cross-entropy and distillation by a softmax where the paper has a sigmoid for each label.
    """
    guards = {"lwf": {"weight": weight}} if weight else {}
    named: tuple[Scenario, ...] = ("task", "domain", "class")  # a label that has not come yet has no mean
    return Strategy(memory="herding", bytes=bytes, guards=guards, head="prototype", scenarios=named)
