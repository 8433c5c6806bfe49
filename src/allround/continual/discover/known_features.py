"""known_features: groups of the rows in the space of a net that was trained to tell the known classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allround.continual.discovering import Discovery, NovelRows
from allround.continual.discovery_net import projection
from allround.core.registry import method


@method(
    source="the two-stage baseline of Troisemaine et al., arXiv:2302.12028: learn on known classes, cluster the others",
    paper="Novel Class Discovery: an Introduction and Key Concepts",
)
class KnownFeatures(Discovery):
    """Trains a net on the known classes alone, and groups the novel rows by k-means on its features of length 1.

    width: of the features.
    """

    name = "known_features"

    def __init__(self, *, width: int = 16, epochs: int = 100, rate: float = 1e-3, dropout: float = 0.1) -> None:
        self.width, self.epochs, self.rate, self.dropout = width, epochs, rate, dropout

    def space(self, rows: NovelRows, seed: int) -> NDArray[np.float64]:
        made = projection(rows, seed, weight=1.0, width=self.width, epochs=self.epochs, rate=self.rate,
                          dropout=self.dropout)  # fmt: skip
        return made.double().numpy()
