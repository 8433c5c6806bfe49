"""Karcher mean: the point on a sphere that is nearest to the directions of all changes, with their mean length."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.merging.angles import gram, mix
from allround.merging.whole import WHOLE, Whole


@method(
    source="Wang et al., 2026, arXiv:2603.04972 (the spherical proxy); mergekit 0.1.5, karcher",
    base="optional",
    block="element",
)
def karcher(base: Tensor, deltas: Tensor, *, steps: int = 10, tolerance: float = 1e-5, whole: Whole = WHOLE) -> Tensor:
    """Merge k changes of one weight; without a base, k weights.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + mean_i |d_i| m. m starts as the mean of the unit vectors u_i = d_i / |d_i|, made a unit vector; in
    each step it goes on its sphere by g = mean_i a_i / sin a_i (u_i - cos a_i m), a_i the angle between u_i and m:
    m <- cos |g| m + sin |g| g / |g|; at most `steps` times, until |g| is below `tolerance`. All of this is a sum of
    the u_i, so it is done on their inner products.
    Differs: mergekit has no base here: it takes the weights themselves (as this does without a base), those of a base
    model among them. With a base these are the changes, which lie far wider apart than the weights. Only a change
    that is zero has no direction; mergekit leaves out all shorter than the tolerance.

    >>> import torch
    >>> karcher(torch.zeros(2), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([1.4142, 1.4142])
    """
    if steps < 0 or tolerance <= 0:
        raise AllroundError(
            f"merge with {steps} steps to a tolerance of {tolerance}",
            "the steps must be at least 0, and the tolerance larger than 0",
            "leave them at 10 and 1e-5",
        )
    if len(deltas) == 1:
        return base + deltas[0]
    products = tuple(gram(deltas, whole).flatten().tolist())
    return base + mix(torch.tensor(_factors(products, steps, tolerance), dtype=torch.float64), deltas)


@lru_cache(maxsize=256)  # every block of a weight has the same
def _factors(products: tuple[float, ...], steps: int, tolerance: float) -> list[float]:
    """How much of each vector is in the mean, from their inner products."""
    size = round(len(products) ** 0.5)
    gram = torch.tensor(products, dtype=torch.float64).reshape(size, size)
    lengths = gram.diagonal().sqrt()
    known = (lengths > 0).double()
    if not known.any():
        return [0.0] * size
    inverse = known / torch.where(lengths > 0, lengths, 1)
    units = gram * inverse * inverse[:, None]
    share = known / known.sum()

    def norm(factors: Tensor) -> float:
        return float((factors @ units @ factors).clamp_min(0).sqrt())

    mean = share.clone()
    if norm(mean) < tolerance:  # they cancel: begin with the first
        mean = torch.zeros_like(share)
        mean[int(known.argmax())] = 1
    mean /= norm(mean)
    for _ in range(steps):
        cosine = (units @ mean).clamp(-1, 1)
        angle = torch.acos(cosine)
        pull = torch.where(angle < tolerance, 0, share * angle / torch.sin(angle))
        step = pull - (pull @ cosine) * mean
        far = norm(step)
        if far < tolerance:
            break
        mean = torch.cos(torch.tensor(far)) * mean + torch.sin(torch.tensor(far)) / far * step
        mean /= norm(mean)
    found: list[float] = (lengths.mean() * mean * inverse).tolist()
    return found
