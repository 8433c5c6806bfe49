"""pick: the module of the largest weight, alone."""

from __future__ import annotations

from torch import Tensor

from allround.composition.combining import Combine, largest
from allround.core.registry import method


@method(source="top-1 routing; for rows as in ELM: Jang et al., ICML 2023, arXiv:2302.03202")
class Pick(Combine):
    """Uses the module of the largest weight with all of its change; where a router decides at each layer, one there."""

    name = "pick"
    plain = True
    mixes = False

    def weighed(self, weights: Tensor) -> Tensor:
        return largest(weights)
