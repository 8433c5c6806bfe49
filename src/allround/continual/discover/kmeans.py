"""kmeans: groups of the rows as they are; what is known of other classes is not looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allround.continual.discovering import Discovery, NovelRows
from allround.core.registry import method


@method(source="k-means on the rows themselves, the baseline of Troisemaine et al., arXiv:2302.12028")
class Kmeans(Discovery):
    """Groups the rows by k-means on their standardised numbers. What all others have to beat."""

    name = "kmeans"

    def space(self, rows: NovelRows, seed: int) -> NDArray[np.float64]:
        return rows.novel.double().numpy()
