"""Faiss: an index of the Faiss library, by default a graph of near vectors (HNSW)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.vector_index import VectorIndex, check_shape, library, ordered

#: What a search by HNSW looks at, where nothing else is asked for.
_USUAL = "efSearch=200"


@method(
    source="Faiss: Douze et al., 2024, arXiv:2401.08281; HNSW: Malkov and Yashunin, TPAMI 42, 2020, arXiv:1603.09320",
    approximate=True,
)
class Faiss(VectorIndex):
    """factory: what `faiss.index_factory` is to make, such as `HNSW32`, `IVF256,Flat`, or `Flat` (exact).

    search: parameters of its search as Faiss spells them, such as `efSearch=64` or `nprobe=16`; by default of HNSW
    efSearch=200, of others what Faiss sets. They stand in the file. threads: that build it; with more than one a graph
    can differ from one time to the next.
    """

    file = "index.faiss"

    def __init__(self, *, factory: str = "HNSW32", search: str | None = None, threads: int = 1) -> None:
        self.faiss = library("faiss", "faiss-cpu", "index")
        self.factory, self.threads = factory, threads
        self.parameters = search or (_USUAL if factory.startswith("HNSW") else "")

    def build(self, vectors: Path, folder: Path) -> None:
        whole = np.load(vectors, mmap_mode="r", allow_pickle=False)
        before = self.faiss.omp_get_max_threads()
        self.faiss.omp_set_num_threads(self.threads)
        try:
            index = self.faiss.index_factory(whole.shape[1], self.factory, self.faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                index.train(whole)
            index.add(whole)
            if self.parameters:
                self.faiss.ParameterSpace().set_index_parameters(index, self.parameters)
        except RuntimeError as error:
            raise AllroundError(f"build the index 'faiss' with factory={self.factory}", _words(error),
                                "see the Faiss wiki, 'The index factory'; fewer lists need fewer passages",
                                ) from error  # fmt: skip
        finally:
            self.faiss.omp_set_num_threads(before)
        self.faiss.write_index(index, str(folder / self.file))

    def open(self, folder: Path, count: int, width: int) -> None:
        try:
            self.index = self.faiss.read_index(str(folder / self.file))
        except RuntimeError as error:
            raise ValueError(_words(error)) from error
        check_shape((self.index.ntotal, self.index.d), count, width)

    def search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        # One query at a time: Faiss computes products of many in another order of sums.
        most = min(count, self.index.ntotal)
        found = [self.index.search(one[None], most) for one in queries.numpy()]
        scores, places = (torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True))
        return ordered(scores, places)


def _words(error: RuntimeError) -> str:
    """What Faiss says, without the place in its code."""
    return str(error).rpartition(": ")[2].strip() or "Faiss cannot do it"
