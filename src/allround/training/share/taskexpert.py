"""TaskExpert: at several levels experts read the shared features, and each task keeps a memory that it updates."""

from __future__ import annotations

from dataclasses import replace

from allround.core.registry import method
from allround.models.share.plan import Choice, Level, Mixing, Plan


@method(
    source="Ye and Xu, ICCV 2023, arXiv:2307.15324, from its abstract and figures; no code of the authors is known",
    paper="TaskExpert: Dynamically Assembling Multi-Task Representations with Memorial Mixture-of-Experts",
)
def taskexpert(
    *, experts: int = 4, units: int = 128, hidden: int = 0, levels: int = 3, dropout: float = 0.0, rate: float = 1e-3
) -> Plan:
    """A task's gate reads its memory, and weighs the experts of the level and the memory itself, for each row; what
    comes of it is the memory of the next level. At the first level the memory is what the encoder gives.

    Differs: the experts of all levels read the output of the encoder, and not those of several of its layers.
    """
    bank = Choice("mlp", {"units": (units,) * hidden, "dropout": dropout})
    first = Level(Mixing(bank, Choice("linear"), shared=experts), units=units, outputs="tasks", modules_read="input")
    return Plan(levels=(first, *[replace(first, residual="weighed")] * (levels - 1)), rate=rate)
