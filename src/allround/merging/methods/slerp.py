"""SLERP: go from the base to one model on the arc between them, not on the straight line."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from allround.core.registry import Search, method
from allround.merging.angles import gram
from allround.merging.whole import WHOLE, Whole


@method(
    source="Shoemake, SIGGRAPH 1985, doi:10.1145/325334.325242; for weights as in mergekit 0.1.5, slerp",
    block="element",
    models=(1, 1),
)
def slerp(
    base: Tensor, deltas: Tensor, *, t: Annotated[float, Search(0.25, 0.5, 0.75)] = 0.5, whole: Whole = WHOLE
) -> Tensor:
    """Merge one model into the base.

    Shapes: base (*s), deltas (1, *s) -> merged (*s)
    Formula: (sin((1 - t) a) base + sin(t a) tuned) / sin a, a the angle between base and tuned as vectors; t = 0 gives
    the base and t = 1 the tuned. Where |cos a| is above 0.9995 the line is taken: base + t d.
    Differs: Shoemake's are unit vectors. These keep their lengths, as in mergekit.

    >>> import torch
    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([[-1.0, 1.0]]))
    tensor([0.7071, 0.7071])
    """
    of_base, between, _, of_tuned = gram(torch.stack([base, base + deltas[0]]), whole).flatten().tolist()
    lengths = [length if length > 1e-8 else 1.0 for length in (math.sqrt(of_base), math.sqrt(of_tuned))]
    cosine = max(-1.0, min(1.0, between / lengths[0] / lengths[1]))
    if abs(cosine) > 0.9995:
        return base + t * deltas[0]
    angle = math.acos(cosine)
    first, second = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return (base * (first + second)).add_(deltas[0], alpha=second)
