"""Both: some layers are removed, and units of those that stay."""

from __future__ import annotations

from allround.core.registry import method
from allround.models.shrinking.anatomy import Kept
from allround.models.shrinking.choosing import Which, choose
from allround.models.shrinking.importance import Over
from allround.models.shrinking.study import Study, Weights


@method(
    source="layers as `layers`, units as `units`; both at once as Xia et al., ACL 2022, arXiv:2204.00408, whose masks "
    "are learned",
    needs=("layers", "units"),
    tried=True,
)
def both(
    study: Study,
    share: float,
    *,
    power: float = 0.5,
    which: Which = "even",
    over: Over = "max",
    weights: Weights = None,
) -> Kept:
    """Layers and units: more layers stay than with `layers`, and fewer units of each.

    power: share^power of the layers are kept, rounded up; 0 removes units alone, 1 layers alone. which, over,
    weights: as of `layers` and `units`.
    """
    return choose(study, share, power=power, which=which, over=over, weights=weights)
