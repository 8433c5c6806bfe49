"""OGD: steps are orthogonal to gradients of earlier answers."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="Farajtabar et al., AISTATS 2020, arXiv:1910.07104")
def ogd(*, directions: int = 40) -> Strategy:
    """Tune the model on each arrival with the guard `ogd`. directions: rows of each task whose gradients are kept, as
    many numbers as the model has for each row."""
    return Strategy(guards={"ogd": {"directions": directions}})
