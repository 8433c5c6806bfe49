"""Sign: one bit a weight says which way it changed, and one number a row says how far."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from allround.composition.residuals.codec import Codec, Parts, narrow, pack, part, unpack
from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method

_PER = ("row", "tensor")


@method(source="Liu et al., BitDelta, NeurIPS 2024, arXiv:2402.10193")
class Sign(Codec):
    """Signs times a scale.

    Shapes: residual (m, *s) -> bits (ceil(n / 8),) uint8 for n weights, scale (m,) or with `per="tensor"` (1,)
    Formula: t' = a sign(t), a = mean |t| of the row or tensor, which is the scale of the least squared error; a zero
    counts as positive. What is no matrix is stored whole, unless `vectors=False`: then it is one row.
    Differs: the paper has one scale for each linear layer, tuned afterwards by distillation, and leaves all else as
    the specialist has it. Here the scale is as computed, and embeddings are coded too; a row that did not change, such
    as that of a token which was never seen, stays as it is.

    >>> codec = Sign()
    >>> parts = codec.encode(torch.tensor([[1.0, -3.0], [0.0, 0.0]]))
    >>> parts["bits"].tolist(), parts["scale"].tolist(), codec.decode(parts, (2, 2)).tolist()
    ([176], [2.0, 0.0], [[2.0, -2.0], [0.0, 0.0]])
    """

    def __init__(self, *, per: str = "row", vectors: bool = True, values: str = "float16") -> None:
        super().__init__(values)
        if per not in _PER:
            raise AllroundError(f"take one scale per '{per}'", "there is no such choice", suggestion(per, _PER))
        self.per, self.vectors = per, vectors

    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        if residual.ndim < 2 and self.vectors:
            return {"whole": narrow(residual, self.values)}
        rows = residual.flatten(1) if residual.ndim > 1 and self.per == "row" else residual.reshape(1, -1)
        return {"bits": pack(residual >= 0), "scale": rows.abs().mean(1).float()}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        if "whole" in parts:
            return part(parts, "whole", shape)
        rows = shape[0] if len(shape) > 1 and self.per == "row" else 1
        scale = part(parts, "scale", (rows,), torch.float32)
        bits = unpack(parts, "bits", math.prod(shape)).view(rows, -1)
        return torch.where(bits, scale[:, None], -scale[:, None]).view(shape)
