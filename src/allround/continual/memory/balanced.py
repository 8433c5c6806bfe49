"""balanced: as many bytes for each label, or for each task without labels; rows are drawn at random."""

from __future__ import annotations

import numpy as np

from allround.continual.rows import ArrivedRows, Ranking
from allround.core.registry import method


@method(source="random exemplars of each class, as in GMvandeVen/continual-learning and Rebuffi et al., CVPR 2017")
def balanced(rows: ArrivedRows) -> Ranking:
    """A group for each label of each task."""
    groups = [f"{rows.task.name}: {label}" for label in rows.labels]
    return Ranking(groups, np.asarray(rows.random.random(len(rows))))
