"""RegMean++: RegMean layer by layer, each on what the merged layers before it give; nothing is learned in steps."""

from __future__ import annotations

from allround.core.registry import method
from allround.merging.learn.learning import ClosedForm


@method(source="Nguyen et al., 2025, arXiv:2508.03121", closed=True)
def regmean_pp(*, shrink: float = 0.9, groups: str = "block") -> ClosedForm:
    """RegMean with the inputs that layers have behind the merged layers before them.

    shrink: of the Gram matrices' entries off the diagonal. groups: "block" merges the layers of a numbered block at
    once, "layer" one after the other. Takes unlabelled training rows, and all models in memory together.
    Differs: see `allround.merging.statistics.sequential`, which does it. Checked by hand.

    >>> regmean_pp().needs, regmean_pp(shrink=0.5).to_json()["shrink"]
    ((), 0.5)
    """
    return ClosedForm(form_settings={"shrink": shrink, "groups": groups})
