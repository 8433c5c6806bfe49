"""What methods on whole matrices share: singular directions, averages, least squares with Gram matrices.

Singular values of a float32 matrix are taken from the eigenvalues of its Gram matrix on the shorter side, in double:
that is two to three times faster than an SVD, and in double nothing is lost that float32 can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.merging.parts import Each, combine, each

#: Columns that are widened to double at a time.
_COLUMNS = 1 << 13


def mean(deltas: Tensor, weights: Each = 1.0) -> Tensor:
    """The weighted mean of the changes, which is what matrix methods do to what is no matrix."""
    return combine(deltas, weights, elect=False, normalize=True)


def wide(values: Tensor) -> Tensor:
    """In double, where the device has it."""
    return values if values.device.type == "mps" else values.double()


def directions(
    matrix: Tensor, count: int | None = None, *, size: float | Tensor = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular triples of a matrix, the largest first: all, or `count` of them.

    Shapes: matrix (m, n) -> U (m, c), s (c,), V (c, n); matrix = U diag(s) V where c is the shorter side. What is zero
    up to rounding is exactly zero in s, and its directions, which mean nothing, are zero in U and V.
    size: of the numbers that the matrix was computed from, where they were larger than its singular values: rounding
    is a share of the larger of the two.
    """
    if matrix.shape[0] > matrix.shape[1]:
        v, s, u = directions(matrix.T, count, size=size)
        return u.T, s, v.T
    count = matrix.shape[0] if count is None else count
    if matrix.dtype != torch.float32 or matrix.device.type == "mps":
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        u, s, v = u[:, :count], s[:count], v[:count]
        kept = _kept(s, matrix, size)
        return u * kept, s * kept, v * kept[:, None]
    squares, vectors = torch.linalg.eigh(_gram(matrix))
    left = vectors.flip(1)[:, :count]
    values = squares.flip(0)[:count].clamp_min(0).sqrt()
    kept = _kept(values, matrix, size)
    values, left = values * kept, left * kept
    inverse = torch.where(kept > 0, 1 / values, 0.0)
    right = matrix.new_empty(count, matrix.shape[1])
    for start in range(0, matrix.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        right[:, part] = (left.T @ matrix[:, part].double()).mul_(inverse[:, None])
    return left.to(matrix.dtype), values.to(matrix.dtype), right


def _kept(values: Tensor, matrix: Tensor, size: float | Tensor) -> Tensor:
    """1 for singular values that are more than rounding, 0 for the others."""
    least = 4 * torch.finfo(matrix.dtype).eps * max(matrix.shape) ** 0.5
    return (values > least * values.max().clamp_min(size)).to(values.dtype) if len(values) else values


def typical(weight: Tensor) -> Tensor:
    """The root mean square of a weight's entries: a change is the difference of two such weights, and its rounding is
    a share of this."""
    found: Tensor = torch.linalg.vector_norm(weight) / max(weight.numel(), 1) ** 0.5
    return found


def flat(values: Tensor) -> Tensor:
    """The mean of the singular values that are not zero; zero where all are."""
    return values.sum() / (values > 0).sum().clamp_min(1)


def _gram(matrix: Tensor) -> Tensor:
    """matrix @ matrix.T, in double."""
    total = matrix.new_zeros(matrix.shape[0], matrix.shape[0], dtype=torch.float64)
    for start in range(0, matrix.shape[1], _COLUMNS):
        part = matrix[:, start : start + _COLUMNS].double()
        total.addmm_(part, part.T)
    return total


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are all 1, which is U V; those that are zero stay zero."""
    u, _, v = directions(matrix)
    return u @ v


def knows(gram: Tensor, base: Tensor, method: str) -> bool:
    """Whether a Gram statistic (k, in, in) belongs to this weight: a matrix (out, in), or a convolution (out, ...) seen
    as the matrix (out, in) by which it multiplies each patch. False where there is none: what is no matrix has none,
    and neither has a matrix with a statistic that is empty.

    Errors: a statistic of another width.
    """
    if base.ndim < 2 or gram.numel() == 0:
        return False
    width = base[0].numel()
    if gram.shape[-2:] != (width, width):
        raise AllroundError(
            f"merge a matrix {(len(base), width)} by '{method}'",
            f"its Gram matrices are {tuple(gram.shape[1:])}",
            "compute them from the inputs of this layer; the width is that of a row of the weight",
        )
    return True


def by_counts(deltas: Tensor, counts: Tensor, weights: Each) -> Tensor:
    """The mean of changes of an embedding in which each row of a model counts by how often it was looked up: RegMean,
    whose Gram matrices are diagonal here. What no model looked up is averaged.

    Shapes: deltas (k, rows, n), counts (k, rows) -> (rows, n)
    """
    if counts.shape != deltas.shape[:2]:
        raise AllroundError(
            f"merge an embedding {tuple(deltas.shape[1:])} by counts",
            f"{tuple(counts.shape[1:])} counts are given",
            "compute them from the inputs of this layer",
        )
    counted = counts * each(weights, counts)
    total = counted.sum(0)
    share = torch.where(total > 0, counted / total.clamp_min(torch.finfo(total.dtype).tiny), 0)
    return torch.where(total[:, None] > 0, (share[:, :, None] * deltas).sum(0), mean(deltas, weights))


def shrunk(gram: Tensor, shrink: float, method: str) -> Tensor:
    """Gram matrices (k, n, n) with their entries off the diagonal times `shrink`."""
    if not 0 <= shrink <= 1:
        raise AllroundError(
            f"set 'shrink' of '{method}' to {shrink}", "that is not from 0 to 1", "give one such as 0.9"
        )
    if shrink == 1:
        return gram
    made = gram * shrink
    made.diagonal(dim1=-2, dim2=-1).copy_(gram.diagonal(dim1=-2, dim2=-1))
    return made


def weighted(
    deltas: Tensor, gram: Tensor, weights: Each, shrink: float, method: str, center: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The two sides of the least-squares problem of RegMean, in double.

    Shapes: deltas (k, m, n), gram (k, n, n), center (m, n) -> sum_i G_i (n, n), sum_i (d_i - center) G_i (m, n), where
    G_i is w_i gram_i with its entries off the diagonal times `shrink`.
    """
    total = side = None
    for change, matrix, weight in zip(deltas, gram, each(weights, deltas).flatten().tolist(), strict=True):
        part = shrunk(wide(matrix) * weight, shrink, method)
        change = wide(change if center is None else change - center)
        side = change @ part if side is None else side.addmm_(change, part)
        total = part if total is None else total.add_(part)
    assert total is not None and side is not None
    return total, side


def solve(gram: Tensor, side: Tensor, eps: float) -> Tensor:
    """X with X gram = side, for a symmetric gram without negative eigenvalues and a side in its range.

    Shapes: gram (n, n), side (m, n) -> (m, n). eps: how exact the gram is, such as 1e-7 if it was stored in float32;
    where that is too little to be sure of a direction, X is pulled towards zero there.
    """
    diagonal = gram.diagonal()
    scale = torch.where(diagonal > 0, diagonal.clamp_min(1e-300 if gram.dtype == torch.float64 else 1e-30).rsqrt(), 0.0)
    scaled = gram * scale[:, None] * scale
    least = eps * len(gram) ** 0.5
    ridge = 0.0
    while ridge < 0.1:
        scaled.diagonal().copy_(torch.full_like(diagonal, 1 + ridge))
        factor, failed = torch.linalg.cholesky_ex(scaled)
        if not failed and (ridge > 0 or float(factor.diagonal().square().min()) > least):
            return torch.cholesky_solve((side * scale).T, factor).T * scale
        ridge = max(10 * ridge, least)
    raise AllroundError(
        "solve a least-squares problem", "its Gram matrices have negative eigenvalues", "compute the statistics again"
    )


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], left: Tensor, length: float, steps: int, tolerance: float
) -> tuple[Tensor, int, float]:
    """Some steps towards the X with apply(X) = side, for a symmetric map without negative eigenvalues.

    Shapes: left (*s), the residual side - apply(X) where X starts -> by how far X moves (*s), how many steps were
    taken, and the residual over `length`, the norm of the side. Ends early where that is `tolerance`.
    """
    norm = float(left.abs().max().clamp_min(torch.finfo(left.dtype).tiny))
    residual, length = left / norm, length / norm
    moved, towards = torch.zeros_like(residual), residual.clone()
    size, taken = float(residual.square().sum()), 0
    enough = (tolerance * length) ** 2
    while taken < steps and size > enough:
        image = apply(towards)
        curvature = float((towards * image).sum())  # summed in pairs: with torch.dot, rounding soon costs steps
        if curvature <= 0:
            break
        step = size / curvature
        moved.add_(towards, alpha=step)
        residual.sub_(image, alpha=step)
        before, size = size, float(residual.square().sum())
        towards.mul_(size / before).add_(residual)
        taken += 1
    return moved * norm, taken, size**0.5 / length if length else 0.0
