"""Deep safe: a public layer and a private one of each task, and a gate between them."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Yue et al., Deep Safe Multi-Task Learning, arXiv:2111.10601, from its abstract; no code of the authors is "
    "known"
)
def deep_safe(*, units: int = 128, hidden: int = 1, dropout: float = 0.0, rate: float = 1e-3) -> Plan:
    """A task's vector is g * public + (1 - g) * private, with a g between 0 and 1 of the task's own that begins at 1/2.

    Differs: both parts are perceptrons with `hidden` layers behind one encoder, which all tasks train; so a task cannot
    fall back to a model of its own, as it can with two encoders, and nothing says that it is never worse.
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    mixing = Mixing(bank, Choice("free", {"form": "softmax"}), owners="tasks+shared", sees="own+shared")
    return Plan(levels=(Level(mixing, units=units),), rate=rate)
