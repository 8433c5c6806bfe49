"""hnswlib: a graph of near vectors, by the library of HNSW's authors."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allround.core.reading import open_file
from allround.core.registry import method
from allround.models.vector_index import VectorIndex, check_shape, library, ordered

#: Vectors that are added at once.
_BLOCK = 65_536


@method(source="hnswlib; Malkov and Yashunin, TPAMI 42, 2020, arXiv:1603.09320", approximate=True)
class Hnswlib(VectorIndex):
    """links: of a vector in each layer (M). breadth: of the search for them when the graph is built (ef_construction).

    search: breadth of the search for a query (ef), at least 100, since so many passages are given. The file does not
    hold it: whoever opens the file with hnswlib sets it there (`set_ef`). threads: that build it; with more than one
    the graph can differ from one time to the next.
    """

    file = "index.hnswlib"

    def __init__(self, *, links: int = 16, breadth: int = 200, search: int = 200, threads: int = 1) -> None:
        self.hnswlib = library("hnswlib", "hnswlib", "hnswlib")
        self.links, self.breadth, self.ef, self.threads = links, breadth, search, threads

    def build(self, vectors: Path, folder: Path) -> None:
        whole = np.load(vectors, mmap_mode="r", allow_pickle=False)
        index = self.hnswlib.Index(space="ip", dim=whole.shape[1])
        index.init_index(max_elements=len(whole), M=self.links, ef_construction=self.breadth, random_seed=0)
        for start in range(0, len(whole), _BLOCK):
            some = whole[start : start + _BLOCK]
            index.add_items(some, np.arange(start, start + len(some)), num_threads=self.threads)
        index.save_index(str(folder / self.file))

    def open(self, folder: Path, count: int, width: int) -> None:
        try:
            with open_file(folder / self.file) as file:  # hnswlib takes any width, and would read beyond the vectors
                _, _, found, _, end, start = struct.unpack("6N", file.read(struct.calcsize("6N")))
            check_shape((found, (end - start) // 4), count, width)
            self.index = self.hnswlib.Index(space="ip", dim=width)
            self.index.load_index(str(folder / self.file))
        except (RuntimeError, struct.error) as error:
            raise ValueError(str(error)) from error
        self.index.set_ef(self.ef)

    def search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        most = min(count, self.index.get_current_count())
        scores, places = torch.zeros(len(queries), most), torch.full((len(queries), most), -1)
        for row, query in enumerate(queries.numpy()):
            labels, distances = self._nearest(query, most)
            places[row, : len(labels)] = torch.from_numpy(labels.astype(np.int64))
            scores[row, : len(labels)] = torch.from_numpy(1 - distances)
        return ordered(scores, places)

    def _nearest(self, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """As many as the graph leads to: hnswlib refuses to give fewer than it is asked for."""
        while most:
            try:
                labels, distances = self.index.knn_query(query[None], k=most)
                return labels[0], distances[0]
            except RuntimeError:
                most //= 2
        return np.zeros(0), np.zeros(0)
