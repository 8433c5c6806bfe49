"""Exact: every query is compared with every vector, which lie in a .npy file that is mapped into memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allround.core.registry import method
from allround.models.searching import PASSAGES, top
from allround.models.vector_index import VectorIndex, check_shape


@method(source="exhaustive search for the largest inner products")
class Exact(VectorIndex):
    """No vector is missed. A query takes a product with each of them: (n, d) in time, some blocks in memory."""

    file = "vectors.npy"

    def build(self, vectors: Path, folder: Path) -> None:
        os.replace(vectors, folder / self.file)

    def open(self, folder: Path, count: int, width: int) -> None:
        self.vectors = np.load(folder / self.file, mmap_mode="r", allow_pickle=False)
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise ValueError(f"{self.file} is not a table of float32 numbers")
        check_shape(self.vectors.shape, count, width)

    def search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        starts = range(0, len(self.vectors), PASSAGES)
        return top(queries, (torch.from_numpy(np.array(self.vectors[i : i + PASSAGES])) for i in starts), count)
