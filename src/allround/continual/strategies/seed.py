"""SEED: a few experts, of which an arrival tunes one, and Gaussians of each label in the features of each."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Rypesc et al., ICLR 2024, arXiv:2401.10191; checked against src/approach/seed.py of grypesc/SEED",
    paper="Divide and not forget: Ensemble of selectively trained experts in Continual Learning",
)
def seed(
    *, experts: int = 5, alpha: float = 0.99, rate: float = 0.1, temperature: float = 3.0, ridge: float = 0.01
) -> Strategy:
    """No row is remembered, but the mean and covariance of each label for each expert.

    experts, alpha, rate: see the way to grow `expert`. temperature, ridge: see the way to select `gaussians`.

    Differs: see both. Gaussians are not moved when their expert is tuned further, as in the authors' code.
    """
    return Strategy(
        grow="expert",
        grow_settings={"experts": experts, "alpha": alpha, "rate": rate, "ridge": ridge},
        select="gaussians",
        select_settings={"temperature": temperature, "ridge": ridge},
        scenarios=("class", "task"),
    )
