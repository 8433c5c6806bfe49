"""A hash that tells models apart without reading all of them."""

from __future__ import annotations

import hashlib

from allround.checkpoints.source import Source
from allround.checkpoints.write import as_bytes

#: Elements of each tensor that a fingerprint reads, in stretches spread evenly over it: tuning changes nearly all of a
#: weight (of an embedding, the rows of words that were seen), and a model may be large.
_SAMPLE, _STRETCHES = 1024, 16


def fingerprint(source: Source) -> str:
    """A hash that tells models apart without reading all of them: of names, dtypes, shapes and some elements."""
    digest = hashlib.sha256()
    for name in sorted(source):
        digest.update(f"{name}\0{source.dtype(name)}\0{source.shape(name)}\0".encode())
        for start, stop in _stretches(source.numel(name)):
            digest.update(as_bytes(source.read(name, start, stop)))
    return digest.hexdigest()


def _stretches(size: int) -> list[tuple[int, int]]:
    """Where the elements lie that a fingerprint reads: all of few, else the first, the last, and some between.

    >>> _stretches(5), _stretches(100_000)[:2], _stretches(100_000)[-1]
    ([(0, 5)], [(0, 64), (6662, 6726)], (99936, 100000))
    """
    if size <= _SAMPLE:
        return [(0, size)]
    length = _SAMPLE // _STRETCHES
    starts = [(size - length) * number // (_STRETCHES - 1) for number in range(_STRETCHES)]
    return [(start, start + length) for start in starts]
