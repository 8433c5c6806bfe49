"""chosen_start: a model for each arrival, tuned from the base or from the earlier model that promises most."""

from __future__ import annotations

from typing import Literal

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Fisch et al., 2023, arXiv:2307.05741: selective initialisation; with LogME as the predictor of transfer",
    paper="Towards Robust and Efficient Continual Language Learning",
)
def chosen_start(*, by: Literal["logme", "base", "last"] = "logme") -> Strategy:
    """Models of earlier arrivals are kept as they are. by: see the way to grow `start`; "base" and "last" are what the
    choice has to beat.

    Differs: the predictor of transfer is LogME on training rows, where the paper learns one from tasks seen before.
    """
    return Strategy(grow="start", grow_settings={"by": by}, scenarios=("task",))
