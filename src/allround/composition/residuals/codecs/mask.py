"""TALL masks: one bit a weight says whether a task takes the sum of all tasks' changes there, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from torch import Tensor

from allround.composition.residuals.codec import Codec, DamagedResidual, Parts, pack, unpack
from allround.core.errors import AllroundError
from allround.core.registry import Search, method


@method(
    source="Wang et al., ICML 2024, arXiv:2405.07813, section 4",
    paper="Localizing Task Information for Improved Model Merging and Compression",
    vector=True,
)
class Mask(Codec):
    """Masks on the multi-task vector.

    Shapes: residual (*s), vector (*s) -> bits (ceil(n / 8),) uint8, for n weights
    Formula: t' = m * v; m = 1 where |t| >= threshold * |v - t|, else 0; t the specialist minus the base, v the
    merged model minus the base, such as the sum of all t. A larger threshold leaves less of v.
    Differs: the released code asks for more than, not for as much as. There the vector stays in float32; here it is
    stored as `values` says, and masks are made for what is stored.

    >>> import torch
    >>> codec, vector = Mask(threshold=0.4), torch.tensor([2.0, 2.0, -1.0])
    >>> parts = codec.encode(torch.tensor([1.5, 0.5, 1.0]), vector)
    >>> parts["bits"].tolist(), codec.decode(parts, (3,), vector).tolist()
    ([160], [2.0, 0.0, -1.0])
    """

    def __init__(
        self, *, threshold: Annotated[float, Search(0.2, 0.3, 0.4, 0.5, 0.6)] = 0.4, values: str = "float16"
    ) -> None:
        super().__init__(values)
        if threshold < 0:
            raise AllroundError(f"set threshold to {threshold}", "it is below 0", "choose one such as 0.4")
        self.threshold = threshold

    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        if vector is None or not vector.any():
            return {}
        return {"bits": pack(residual.abs() >= self.threshold * (vector - residual).abs())}

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        if vector is None:
            raise DamagedResidual("there are bits for a weight at which the multi-task vector is zero")
        return vector * unpack(parts, "bits", vector.numel()).view(shape)
