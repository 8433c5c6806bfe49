"""OVOR: one set of modules for all arrivals, and heads that virtual outliers make less sure."""

from __future__ import annotations

from typing import Literal

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Huang, Chen and Hsu, ICLR 2024, arXiv:2402.04129; checked against learners/ood.py of jpmorganchase/ovor",
    paper="OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental Learning",
)
def ovor(
    *,
    share: Literal["lora", "prompts"] = "lora",
    size: int = 8,
    weight: float = 0.1,
    steps: int = 200,
    boundary: bool = True,
) -> Strategy:
    """No row is remembered, and nothing tells arrivals apart but how sure their heads are of a row.

    share, size, weight, steps, boundary: see the way to grow `one`. Differs: LoRA unless `share` is "prompts", as not
    every encoder reads a sequence; noise has the standard deviations of the features, where the authors have 1.
    """
    settings = {"share": share, "size": size, "weight": weight, "steps": steps, "boundary": boundary}
    return Strategy(grow="one", grow_settings=settings, select="outputs", scenarios=("class", "task"))
