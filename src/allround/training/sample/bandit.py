"""Bandit: tasks whose validation score gains most per batch are drawn more often."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.training.sampling import Mixture, Policy, by_size


@method(
    source="Exp3.S on learning progress: Graves et al., ICML 2017, arXiv:1704.03003, after Auer et al., SIAM J. "
    "Computing 2002",
    feedback=True,
)
class Bandit(Policy):
    """Each feed has a weight that grows with what its validation score gained in the last stretch, per share of the
    batches that it got; gains are scaled to [-1, 1] by the quantiles of all gains so far.

    rate: of learning. explore: share of the batches that is given out whatever the weights. forget: how much of its
    weight each feed gives to the others, so that old gains fade. power: before the first gain, shares follow the rows
    to this power (0 equal, as in the paper; 1 proportional).

    Formula: share_f = (1 - explore) p_f e^w_f / sum_g p_g e^w_g + explore p_f, with p_f ~ n_f^power; after a stretch,
    r_f = gain_f / share_f scaled so that the quantiles 0.2 and 0.8 of all r become -1 and 1 (clipped), then
    w_f <- log((1 - forget) e^(w_f + rate r_f) + forget / (F - 1) sum_(g != f) e^(w_g + rate r_g))
    Differs: the paper learns after each batch from the gain of the one task drawn, divided by its chance; here a
    stretch has drawn every feed, and its gain divided by its share is the same estimate. So there are tens of rounds
    instead of many thousands: rate, explore and forget are 0.001, 0.05 and 1 / round there.

    >>> policy = Bandit(Mixture(("learns", "rests"), (100, 100), ("classification",) * 2))
    >>> policy.evaluated([1.2, 1.0], 0.1)
    >>> [round(share, 3) for share in policy.shares(0.1)]
    [0.648, 0.352]
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        rate: float = 0.5,
        explore: float = 0.2,
        forget: float = 0.1,
        power: float = 0.0,
    ) -> None:
        super().__init__(mixture)
        if not (rate > 0 and 0 < explore <= 1 and 0 <= forget < 1):
            raise AllroundError(
                f"sample by a bandit with rate={rate}, explore={explore}, forget={forget}",
                "the rate is to be above 0, explore above 0 and at most 1, forget at least 0 and below 1",
                "give numbers such as 0.5, 0.2 and 0.1",
            )
        self.rate, self.explore, self.forget = rate, explore, forget
        self.prior = torch.tensor(by_size(mixture.sizes, power), dtype=torch.float64)
        self.state = {
            "weights": torch.zeros(len(mixture), dtype=torch.float64),
            "before": torch.ones(len(mixture), dtype=torch.float64),
            "gains": torch.zeros(0, len(mixture), dtype=torch.float64),
        }

    def _shares(self) -> Tensor:
        weighed = torch.softmax(self.state["weights"] + self.prior.log(), dim=0)
        return (1 - self.explore) * weighed + self.explore * self.prior

    def shares(self, progress: float) -> list[float]:
        shares: list[float] = self._shares().tolist()
        return shares

    def evaluated(self, scores: Sequence[float], progress: float) -> None:
        given, before = torch.tensor(scores, dtype=torch.float64), self.state["before"]
        now = torch.where(given.isfinite(), given, before)  # a score that is no number is no gain
        if progress > 0:
            gains = (now - before) / self._shares().clamp(min=1e-12)
            seen = torch.cat([self.state["gains"], gains[None]])
            weights = self.state["weights"] + self.rate * _scaled(gains, seen)
            self.state = {**self.state, "gains": seen, "weights": _shared(weights, self.forget)}
        self.state = {**self.state, "before": now}


def _scaled(gains: Tensor, seen: Tensor) -> Tensor:
    """Gains in [-1, 1], by the quantiles 0.2 and 0.8 of all gains seen."""
    low, high = torch.quantile(seen.flatten(), torch.tensor([0.2, 0.8], dtype=torch.float64)).tolist()
    if high <= low:
        return torch.sign(gains - low)
    scaled: Tensor = (2 * (gains - low) / (high - low) - 1).clamp(-1, 1)
    return scaled


def _shared(weights: Tensor, forget: float) -> Tensor:
    """Logarithms of weights of which each has given its part to the others; the largest before was 0."""
    size = len(weights)
    if size == 1:
        return torch.zeros_like(weights)
    values = (weights - weights.max()).exp()
    mixed: Tensor = (1 - forget) * values + forget / (size - 1) * (values.sum() - values)
    return mixed.clamp(min=math.exp(-700)).log()
