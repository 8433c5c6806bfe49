"""Packing rows into slots: several rows stand in one sequence, and none sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allround.models.language.rows import ROOT, TokenRow

#: The least length of a slot: shorter rows share one, since short sequences use a processor badly.
LEAST = 128


@dataclass(frozen=True)
class Packed:
    """Rows in slots, as tensors.

    ids, positions: (slots, length). seen: (slots, 1, length, length), whether a token sees another. reads: for each
    token whose probability is asked for, the place (slot * length + column) of the token before it; tokens: itself.
    lasts: of each row, the place of its prompt's last token. used: (slots, length), false where a slot is padded.
    """

    ids: Tensor
    positions: Tensor
    seen: Tensor
    reads: Tensor
    tokens: Tensor
    lasts: Tensor
    used: Tensor


def slots(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows by slot: the longest first, each into the first slot with room for it.

    >>> slots([5, 2, 3], 5)
    [[0], [2, 1]]
    """
    free: list[int] = []
    filled: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        place = next((n for n, left in enumerate(free) if left >= lengths[row]), None)
        if place is None:
            place = len(free)
            free.append(capacity)
            filled.append([])
        free[place] -= lengths[row]
        filled[place].append(row)
    return filled


def pack(rows: Sequence[TokenRow], *, skipped: int = 0, least: int = LEAST) -> Packed:
    """Rows in slots of the length of the longest one.

    skipped: tokens at the beginning of each prompt that the network has read already; all rows have them in common, and
    each token sees them. least: the least length of a slot; 1 puts each row into one of its own where they are alike.
    """
    lengths = [row.length - skipped for row in rows]
    capacity = max(max(lengths), min(least, sum(lengths)))
    filled = slots(lengths, capacity)
    width = max(sum(lengths[row] for row in members) for members in filled)
    ids = np.zeros((len(filled), width), dtype=np.int64)
    positions = np.zeros((len(filled), width), dtype=np.int64)
    seen = np.zeros((len(filled), width, skipped + width), dtype=bool)
    seen[:, np.arange(width), skipped + np.arange(width)] = True  # padding sees itself: a softmax needs something
    seen[:, :, :skipped] = True
    used = np.zeros((len(filled), width), dtype=bool)
    reads: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(rows)
    lasts = np.zeros(len(rows), dtype=np.int64)
    for slot, members in enumerate(filled):
        start = 0
        for number in members:
            row = rows[number]
            prompt, inner = row.prompt[skipped:], row.tree.inner
            first, size = start + len(prompt), len(prompt) + len(inner)
            where = {ROOT: first - 1, **{place: first + at for at, place in enumerate(inner)}}
            ids[slot, start:first] = prompt
            positions[slot, start:first] = np.arange(skipped, skipped + len(prompt))
            ids[slot, first : start + size] = [row.tree.tokens[place] for place in inner]
            positions[slot, first : start + size] = [len(row.prompt) + row.tree.depths[place] for place in inner]
            block = seen[slot, start : start + size, skipped + start : skipped + start + size]
            block[: len(prompt), : len(prompt)] = np.tri(len(prompt), dtype=bool)
            for at, place in enumerate(inner):
                parent = row.tree.parents[place]
                above = len(prompt) - 1 if parent == ROOT else where[parent] - start
                block[len(prompt) + at] = block[above]
                block[len(prompt) + at, len(prompt) + at] = True
            used[slot, start : start + size] = True
            reads[number] = np.array([slot * width + where[parent] for parent in row.tree.parents], dtype=np.int64)
            lasts[number] = slot * width + where[ROOT]
            start += size
    return Packed(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(seen).unsqueeze(1),
        torch.from_numpy(np.concatenate(reads)),
        torch.tensor([token for row in rows for token in row.tree.tokens], dtype=torch.long),
        torch.from_numpy(lasts),
        torch.from_numpy(used),
    )


def common_start(rows: Sequence[TokenRow]) -> int:
    """How many tokens all prompts begin with in common; each keeps at least one of its own.

    >>> from allround.models.language.rows import make_tree
    >>> common_start([TokenRow((1, 2, 3), make_tree([(9,)])), TokenRow((1, 2, 4, 5), make_tree([(9,)]))])
    2
    """
    first, last = min(row.prompt for row in rows), max(row.prompt for row in rows)
    most = min(len(row.prompt) for row in rows) - 1
    return next((at for at in range(most) if first[at] != last[at]), most)
