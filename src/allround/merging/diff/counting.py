"""The compiled loops over stretches of weights: inner products, and entries that conflict."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from torch import Tensor

from allround.merging.kernels import compiled


def count_first(rows: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows (k + 1, n), base and changes: all inner products (k + 1, k + 1), entries changed, largest change (k,)."""
    values = rows.numpy()
    k = len(values) - 1
    gram, changed, largest = np.zeros((k + 1, k + 1)), np.zeros(k), np.zeros(k)
    _compiled()["first"](values, values.dtype.type(0), gram, changed, largest)
    return gram, changed, largest


def count_second(rows: Tensor, least: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows (k + 1, n): how many entries 0 to k models change by more than `least` (k,); how many of them conflict,
    |sum of changes|, sum of magnitudes; and of each pair of models (2, k, k), the entries that both change by more than
    `least`, and those that they change in opposite directions."""
    values = rows.numpy()
    counts, sums, pairs = np.zeros(len(values)), np.zeros(3), np.zeros((2, len(values) - 1, len(values) - 1))
    _compiled()["second"](values, values.dtype.type(0), least.astype(values.dtype), counts, sums, pairs)
    return counts, sums, pairs


@cache
def _compiled() -> dict[str, Callable[..., None]]:
    def first(rows, zero, gram, changed, largest):  # type: ignore[no-untyped-def]
        count, size = rows.shape
        for start in range(0, size, 1024):
            stop = min(start + 1024, size)
            for i in range(count):
                one = rows[i, start:stop]
                for j in range(i, count):
                    other = rows[j, start:stop]
                    total = zero
                    for x in range(stop - start):
                        total += one[x] * other[x]
                    gram[i, j] += total
                if i > 0:
                    differ, most = 0, zero
                    for x in range(stop - start):
                        differ += one[x] != zero
                        most = max(most, abs(one[x]))
                    changed[i - 1] += differ
                    largest[i - 1] = max(largest[i - 1], most)
        for i in range(count):
            for j in range(i):
                gram[i, j] = gram[j, i]

    def second(rows, zero, least, counts, sums, pairs):  # type: ignore[no-untyped-def]
        count, size = rows.shape
        signs = np.empty((count, 1024), np.int32)
        up, down = np.empty(1024, np.int32), np.empty(1024, np.int32)
        added, noticed = np.empty(1024, rows.dtype), np.zeros(count, np.int64)
        for start in range(0, size, 1024):
            length = min(1024, size - start)
            up[:], down[:], added[:] = 0, 0, zero
            magnitude = zero
            for i in range(1, count):
                one, limit = rows[i, start : start + length], least[i - 1]
                for x in range(length):
                    value = one[x]
                    above, below = value > limit, value < -limit
                    up[x] += above
                    down[x] += below
                    signs[i, x] = np.int32(above) - np.int32(below)
                    added[x] += value
                    magnitude += abs(value)
            total, clash = zero, 0
            for x in range(length):
                total += abs(added[x])
                clash += (up[x] > 0) & (down[x] > 0)
                noticed[up[x] + down[x]] += 1
            sums[0] += clash
            sums[1] += total
            sums[2] += magnitude
            for i in range(1, count):
                for j in range(1, i):
                    both, opposed = 0, 0
                    for x in range(length):
                        product = signs[i, x] * signs[j, x]
                        both += product != 0
                        opposed += product < 0
                    pairs[0, i - 1, j - 1] += both
                    pairs[1, i - 1, j - 1] += opposed
        for i in range(count):
            counts[i] += noticed[i]
            for j in range(1, i):
                pairs[:, j - 1, i - 1] = pairs[:, i - 1, j - 1]

    # Sums of a stretch may be taken in any order, so that several entries are added at once; NaN stays NaN.
    return {kernel.__name__: compiled(kernel, fastmath={"reassoc", "contract", "nsz"}) for kernel in (first, second)}
