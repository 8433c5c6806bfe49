"""Iso-CTS: Iso-C, with its weakest directions replaced by each specialist's own."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import Search, method
from allround.merging.matrices import directions, flat, mean, polar, typical


@method(
    source="Marczak et al., ICML 2025, arXiv:2502.04959, section 4.2, Algorithm 2",
    paper="No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
    block="tensor",
)
def iso_cts(
    base: Tensor,
    deltas: Tensor,
    *,
    common: float = 0.8,
    scale: Annotated[float, Search(0.5, 0.8, 1.0, 1.3, 1.6, 2.0)] = 1.0,
) -> Tensor:
    """Merge k changes of one weight in common and in task-specific directions, all with the same weight.

    Shapes: base (*s), deltas (k, *s) -> merged (*s)
    Formula: base + scale * mean(S) polar(U) polar(V). U, S, V are singular triples, as many as the shorter side r has
    entries: n of each (I - C C^T) d_i, and the first r - k n of sum_i d_i, whose left directions are C; n is
    (1 - common) r / k, rounded. polar(U) is the nearest matrix with orthonormal columns. What is no matrix is
    averaged.
    Differs: directions in which there is no change (up to rounding) stay zero and do not count in the mean, as do those
    that two specialists share to the last digit; the authors' code counts them and fills them with whatever the
    decomposition returns. So where the sum has no more directions than its share, as with adapters of low rank, none
    is left for the specialists' own, and this is Iso-C. The authors average the matrix called text_projection; here it
    is a matrix like others.

    >>> import torch
    >>> iso_cts(torch.zeros(2, 2), torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]))
    tensor([[2., 0.],
            [0., 2.]])
    """
    if not 0 <= common <= 1:
        raise AllroundError(
            f"take the share {common} of all directions from the sum",
            "it is not between 0 and 1",
            "give one such as 0.8",
        )
    if base.ndim != 2:
        return base + scale * mean(deltas)
    size, models = min(base.shape), len(deltas)
    own = min(round((size - int(size * common)) / models), size // models)
    rounded = typical(base)
    us, ss, vs = directions(deltas.sum(0), size - own * models, size=rounded)
    shared = us[:, ss > 0]
    found = [(us, ss, vs)]
    if own and base.shape[0] <= base.shape[1]:
        # What is left of a change lies in the few directions beside the shared ones: it is decomposed in these.
        rest = torch.linalg.qr(shared, mode="complete").Q[:, shared.shape[1] :]
        for change in deltas:
            u, s, v = directions(rest.T @ change, own, size=rounded.maximum(change.norm()))
            found.append((rest @ u, s, v))
    elif own:
        for change in deltas:
            left = change - shared @ (shared.T @ change)
            found.append(directions(left, own, size=rounded.maximum(change.norm())))
    u, s, v = (torch.cat(parts, axis) for parts, axis in zip(zip(*found, strict=True), (1, 0, 0), strict=True))
    return base + (scale * flat(s) * polar(u)) @ polar(v)
