"""Virtual outliers: vectors that are like no row, and a head that is less sure of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

#: The energies -log sum exp(outputs) that rows are pushed below, and outliers above.
INSIDE, OUTSIDE = -15.0, -3.0


def virtual_outliers(
    features: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    boundary: bool = True,
    neighbours: int = 50,
    points: int = 50,
    draws: int = 600,
) -> Tensor:
    """Vectors far from all rows, (count, d). features: (n, d).

    The rows at the boundary are those whose `neighbours`-th nearest row is farthest, on vectors scaled to length 1.
    Around each of `points` of them `draws` vectors are drawn, with the standard deviations of the features; of all
    these the ones are kept whose `neighbours`-th nearest row is farthest.

    boundary: add the noise to the rows at the boundary; else outliers are the noise alone.
    """
    unit = F.normalize(features, dim=1)
    near = min(neighbours, len(features))
    points = min(points, len(features))
    gaps = torch.cdist(unit, unit).topk(near, 1, largest=False).values[:, -1]
    chosen = gaps.topk(points).indices
    noise = torch.randn(draws, features.shape[1], generator=generator, dtype=features.dtype) * features.std(
        0, correction=0
    )
    found = noise.repeat(points, 1)
    if boundary:
        found = found + features[chosen].repeat_interleave(draws, 0)
    far = torch.cdist(F.normalize(found, dim=1), unit).topk(near, 1, largest=False).values[:, -1]
    return found[far.topk(min(count, len(found))).indices]


def energy_loss(rows: Tensor, outliers: Tensor) -> Tensor:
    """What pushes the energies of rows below `INSIDE`, and those of outliers above `OUTSIDE`. Shapes: outputs (n, k),
    (m, k) -> (). Huber's loss of how far they are from there.

    >>> float(energy_loss(torch.tensor([[14.5]]), torch.tensor([[5.0]])))  # 0.5^2 / 2, and 2 - 1 / 2
    1.625
    """
    inside = F.relu(-torch.logsumexp(rows, 1) - INSIDE)
    outside = F.relu(OUTSIDE + torch.logsumexp(outliers, 1))
    return F.huber_loss(inside, torch.zeros_like(inside)) + F.huber_loss(outside, torch.zeros_like(outside))


def tuned_head(
    head: Mapping[str, Tensor], features: Tensor, targets: Tensor, outliers: Tensor, *, weight: float, steps: int
) -> dict[str, Tensor]:
    """A linear head after further steps of Adam (rate 0.001) on the cross-entropy and `weight` times the loss on
    energies, over all rows at once; in double precision, since Adam makes steps of rounding errors."""
    with torch.inference_mode(False), torch.enable_grad():
        kept = {name: value.detach().double().requires_grad_() for name, value in head.items()}
        optimiser = torch.optim.Adam(list(kept.values()), lr=1e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            rows, others = (F.linear(x.double(), kept["weight"], kept["bias"]) for x in (features, outliers))
            (F.cross_entropy(rows, targets) + weight * energy_loss(rows, others)).backward()
            optimiser.step()
    return {name: value.detach().float() for name, value in kept.items()}
