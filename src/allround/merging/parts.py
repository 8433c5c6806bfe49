"""The parts that methods of the task-vector family are put together from: coefficients, masks, elections.

merged = base + scale * combine(weights * masked(deltas)): a paper is a choice of mask, of whether signs are elected,
and of what the sum is divided by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging import kernels
from allround.merging.whole import Whole

#: A parameter that is one number for all models, or one number for each.
Each = float | Sequence[float]


def each(value: Each, deltas: Tensor) -> Tensor:
    """A parameter as a column: shape (k, 1, ..., 1) for deltas (k, *s)."""
    column = torch.as_tensor(value, dtype=deltas.dtype, device=deltas.device).expand(len(deltas))
    return column.reshape(-1, *[1] * (deltas.ndim - 1))


def counts(share: Each, size: int, models: int, *, what: str = "keep") -> list[int]:
    """How many of `size` entries each model keeps: the share rounded down, at least one.

    >>> counts(0.25, 10, 2)
    [2, 2]
    """
    shares = [share] * models if isinstance(share, (int, float)) else list(share)
    for one in shares:
        if not 0 < one <= 1:
            raise AllroundError(f"{what} {one} of each change", "it is not between 0 and 1", "give one such as 0.2")
    return [max(1, int(one * size)) for one in shares]


def trim(deltas: Tensor, keep: Each, base: Tensor, whole: Whole) -> Tensor:
    """Zero all but the largest entries of each change; those as large as the last one kept stay too.

    Shapes: deltas (k, *s) -> (k, *s); keep: a share of the entries, for all or for each.
    """
    cut = trim_at(deltas, keep, base, whole)
    return deltas if cut is None else keep_from(deltas, cut)


def trim_at(deltas: Tensor, keep: Each, base: Tensor, whole: Whole) -> Tensor | None:
    """The magnitude of the smallest entry that `trim` keeps of each change (k,); None where all stay."""
    size = whole.size(base)
    kept = counts(keep, size, len(deltas))
    return None if all(count == size for count in kept) else whole.cut(deltas, kept)


def keep_from(deltas: Tensor, cut: Tensor) -> Tensor:
    """Zero the entries of each change that are smaller than its cut: deltas (k, *s), cut (k,) -> (k, *s)."""
    # hardshrink keeps what is larger than a number, and is the fastest such function: so, the number before the cut.
    below = torch.nextafter(cut, torch.full_like(cut, -math.inf)).tolist()
    kept = torch.empty_like(deltas)
    for row, change, number in zip(kept, deltas, below, strict=True):
        torch.hardshrink(change, number, out=row)
    return kept


def combine(deltas: Tensor, weights: Each, *, elect: bool, normalize: bool, cut: Tensor | None = None) -> Tensor:
    """Add up weighted changes.

    Shapes: deltas (k, *s) -> (*s). elect: take only the entries whose weighted change has the sign of the weighted sum
    over all models (plus, where that is zero). normalize: divide by the weights of those that were taken; without elect
    by all weights (unless they cancel). cut (k,): entries that are smaller count as zero.
    """
    column = each(weights, deltas).flatten()
    alike = bool((column == column[0]).all()) and float(column[0]) > 0
    factors = torch.ones_like(column) if alike else column
    if elect and deltas.device.type == "cpu" and deltas.dtype == torch.float32:
        least = torch.zeros_like(column) if cut is None else cut
        total: Tensor = kernels.elected(deltas.reshape(len(deltas), -1), least, factors, normalize=normalize)
        total = total if normalize or not alike else total.mul_(column[0])
        return total.reshape(deltas.shape[1:])
    deltas = deltas if cut is None else keep_from(deltas, cut)
    if not elect:
        total = torch.tensordot(column, deltas, 1)
        divisor = float(column.sum())
        return total.div_(divisor) if normalize and abs(divisor) >= 1e-8 else total
    weighted = deltas if alike else deltas * each(weights, deltas)
    sign = torch.copysign(torch.ones((), dtype=deltas.dtype, device=deltas.device), weighted.sum(0))
    agreeing = (weighted * sign).clamp_min_(0)
    total = agreeing.sum(0).mul_(sign)
    if not normalize:
        return total.mul_(column[0]) if alike else total
    share = torch.tensordot(factors, agreeing.sign_(), 1)
    return total.div_(share.masked_fill_(share == 0, 1))
