"""Low rank: the largest singular directions of each matrix's residual."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from allround.composition.residuals.codec import Codec, DamagedResidual, Parts, narrow, part, wide
from allround.core.errors import AllroundError
from allround.core.registry import method


@method(
    source="exclusive experts: Lu et al., NeurIPS 2024, arXiv:2406.15479",
    paper="Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging",
)
class LowRank(Codec):
    """A truncated singular value decomposition.

    Shapes: residual (m, *s) -> left (m, r), right (r, n), n the product of s; a vector -> whole (m,)
    Formula: t' = left right, the nearest matrix of rank r: left = U_r S_r^(1/2), right = S_r^(1/2) V_r. r is `rank`,
    or where `share` is above 0, that share of the shorter side, rounded down, at least 1. What is no matrix (biases,
    norms) is stored whole, or with `vectors=False` dropped. So is a matrix that two factors would not make smaller.
    Differs: the released code keeps a share of the ranks, with none of them where it rounds to 0, and multiplies the
    factors out. A convolution is cut as one matrix, its first side against the others; there, kernel by kernel.

    >>> codec = LowRank(rank=1, values="own")
    >>> parts = codec.encode(torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> codec.decode(parts, (3, 3)).abs().round(decimals=5).tolist()
    [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def __init__(self, *, rank: int = 16, share: float = 0.0, vectors: bool = True, values: str = "float16") -> None:
        super().__init__(values)
        if rank < 1:
            raise AllroundError(f"cut residuals to rank {rank}", "a rank is above 0", "choose one such as 16")
        if not 0 <= share <= 1:
            raise AllroundError(f"keep {share} of the ranks", "that is no share", "choose one from 0 to 1, such as 0.1")
        self.rank, self.share, self.vectors = rank, share, vectors

    def encode(self, residual: Tensor, vector: Tensor | None = None) -> Parts:
        if residual.ndim < 2:
            return {"whole": narrow(residual, self.values)} if self.vectors else {}
        matrix = residual.flatten(1)
        least, size = min(matrix.shape), matrix.numel()
        rank = min(max(1, int(self.share * least)) if self.share else self.rank, least)
        if rank * sum(matrix.shape) >= size:
            return {"whole": narrow(residual, self.values)}
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        root = s[:rank].sqrt()
        return {
            "left": narrow(u[:, :rank] * root, self.values).contiguous(),
            "right": narrow(root[:, None] * v[:rank], self.values).contiguous(),
        }

    def decode(self, parts: Mapping[str, Tensor], shape: tuple[int, ...], vector: Tensor | None = None) -> Tensor:
        if "whole" in parts:
            return part(parts, "whole", shape)
        if len(shape) < 2 or "left" not in parts or parts["left"].ndim != 2:
            raise DamagedResidual("there is no 'left' that is a matrix")
        rank = parts["left"].shape[1]
        left = part(parts, "left", (shape[0], rank))
        right = part(parts, "right", (rank, math.prod(shape[1:])))
        return (wide(left) @ wide(right)).view(shape)
