"""Batches of prepared rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def draw_batches(lengths: Sequence[int], batch_size: int, seed: int) -> list[list[int]]:
    """One pass over the rows of a task: every row once, in seeded order, rows of like length together to save padding.

    Rows are shuffled, cut into stretches of 8 batches, sorted by length within each stretch, cut into batches, and
    the batches are shuffled.

    >>> sorted(row for batch in draw_batches([5, 1, 4, 2, 3], 2, seed=0) for row in batch)
    [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    stretch = 8 * batch_size
    for start in range(0, len(order), stretch):
        order[start : start + stretch] = sorted(order[start : start + stretch], key=lambda row: lengths[row])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
