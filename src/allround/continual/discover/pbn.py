"""pbn: groups of the rows in a space that tells the known classes and from which all rows can be restored."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from allround.continual.discovering import Discovery, NovelRows
from allround.continual.discovery_net import projection
from allround.core.registry import Search, method


@method(
    source="Troisemaine et al., Data Mining and Knowledge Discovery 2024, arXiv:2311.05440; ColinTr/PracticalNCD: "
    "models/PBN_model.py",
    paper="A Practical Approach to Novel Class Discovery in Tabular Data",
)
class Pbn(Discovery):
    """Trains an encoder on all rows by weight * cross-entropy of the known classes + (1 - weight) * squared error of
    the rows that a decoder restores, and groups the novel rows by k-means on the encoder's vectors of length 1.

    width: of these vectors.
    Differs: the code trains on vectors of length 1, and clusters them before they are scaled to it.
    """

    name = "pbn"

    def __init__(
        self,
        *,
        weight: Annotated[float, Search(0.2, 0.5, 0.9)] = 0.5,
        width: Annotated[int, Search(8, 16, 32)] = 16,
        epochs: int = 100,
        rate: float = 1e-3,
        dropout: float = 0.1,
    ) -> None:
        self.weight, self.width, self.epochs, self.rate, self.dropout = weight, width, epochs, rate, dropout

    def space(self, rows: NovelRows, seed: int) -> NDArray[np.float64]:
        made = projection(rows, seed, weight=self.weight, width=self.width, epochs=self.epochs, rate=self.rate,
                          dropout=self.dropout)  # fmt: skip
        return made.double().numpy()
