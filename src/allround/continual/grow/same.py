"""same: one encoder, which an arrival changes or leaves, and a head for each task."""

from __future__ import annotations

from allround.continual.learning import Learner
from allround.core.registry import method


@method(source="one network for the whole stream, as in van de Ven and Tolias, arXiv:1904.07734")
class Same(Learner):
    """Nothing grows but heads: the guards of the strategy, its memory and its heads are all that it has."""
