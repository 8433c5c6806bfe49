"""Sparse: the largest entries of each residual, with their places."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from allround.composition.residuals.codec import Codec, DamagedResidual, Parts, narrow, pack, part, unpack
from allround.core.errors import AllroundError
from allround.core.registry import method

#: A step of this many entries that leads to none; the others lead to an entry that is stored.
_FAR = 255


@method(source="magnitude, as in the released code of Lu et al., NeurIPS 2024, arXiv:2406.15479")
class Sparse(Codec):
    """The top entries by magnitude.

    Shapes: residual (*s) -> values (k,), and steps (about k,) or bits (ceil(n / 8),), both uint8, for n weights
    Formula: t' = t where |t| is among the k = max(1, floor(keep * n)) largest of its tensor, else 0. Places are
    stored as steps from one entry to the next, a byte each (more where entries lie over 254 apart), or as one bit a
    weight, whichever is smaller. Zeros are never stored. What is no matrix is stored whole, unless `vectors=False`.

    >>> codec = Sparse(keep=0.5, vectors=False)
    >>> parts = codec.encode(torch.tensor([0.5, -3.0, 0.0, 2.0]))
    >>> {name: values.tolist() for name, values in parts.items()}
    {'values': [-3.0, 2.0], 'bits': [80]}
    >>> codec.decode(parts, (4,)).tolist()
    [0.0, -3.0, 0.0, 2.0]
    """

    def __init__(self, *, keep: float = 0.05, vectors: bool = True, values: str = "float16") -> None:
        super().__init__(values)
        if not 0 < keep <= 1:
            raise AllroundError(f"keep {keep} of each residual", "that is no share above 0", "choose one such as 0.05")
        self.keep, self.vectors = keep, vectors

    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        if residual.ndim < 2 and self.vectors:
            return {"whole": narrow(residual, self.values)}
        flat = residual.flatten()
        count = max(1, int(self.keep * len(flat)))
        places = flat.abs().topk(count, sorted=False).indices.sort().values
        values = narrow(flat[places], self.values)
        places, values = places[values != 0], values[values != 0]
        if not len(values):
            return {}
        steps = _steps(places)
        if len(steps) <= (len(flat) + 7) // 8:
            return {"values": values, "steps": steps}
        return {"values": values, "bits": pack(torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, places, True))}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        if "whole" in parts:
            return part(parts, "whole", shape)
        size = math.prod(shape)
        values = part(parts, "values", None)
        if "bits" in parts:
            places = unpack(parts, "bits", size).nonzero().flatten()
        else:
            places = _places(part(parts, "steps", None, torch.uint8), size)
        if len(places) != len(values):
            raise DamagedResidual(f"there are {len(values)} values for {len(places)} places")
        return values.new_zeros(size).index_put_((places,), values).view(shape)


def _steps(places: Tensor) -> Tensor:
    """Increasing places as the steps between them, in bytes.

    >>> _steps(torch.tensor([0, 3, 300])).tolist()
    [1, 3, 255, 42]
    """
    steps = places.diff(prepend=places.new_tensor([-1]))
    found = places.new_full((len(steps) + int((steps // _FAR).sum()),), _FAR, dtype=torch.uint8)
    found[(steps // _FAR + 1).cumsum(0) - 1] = (steps % _FAR).to(torch.uint8)
    return found


def _places(steps: Tensor, size: int) -> Tensor:
    """What `_steps` was made from; they lie among `size` entries."""
    if len(steps) > 2 * size:
        raise DamagedResidual(f"there are {len(steps)} steps for {size} weights")
    found = steps.cumsum(0, dtype=torch.int64)[steps < _FAR] - 1
    if len(found) and (int(found[0]) < 0 or int(found[-1]) >= size or not (found.diff() > 0).all()):
        raise DamagedResidual("its steps lead outside of the weight, or nowhere")
    return found
