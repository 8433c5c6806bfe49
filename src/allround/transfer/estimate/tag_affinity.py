"""tag_affinity: how much a step for the source lowers the loss of the target."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="task affinity: Fifty et al., NeurIPS 2021, arXiv:2109.04617; google-research/tag",
    needs=("gradients", "labels"),
)
def tag_affinity(view: TransferView, *, length: float = 1e-4) -> Values:
    """Take one step of the base for the source, and see what it does to the target, whose head stays as it is.

    Formula: value(s, t) = 1 - L_t(w - r g_s) / L_t(w); g_s is the gradient of the source's loss with respect to w, the
    parameters of the base, and r one rate for all sources
    length: of the longest of all steps r g_s, as a share of the length of w.
    Differs: the paper averages over the steps of a joint training of all tasks, and divides by r; here there is one
    step, at the base, with linear heads that are fitted on it, over all rows.

    >>> from allround.tasks.suite import Suite
    >>> from allround.models.encoders.small_image import SmallImage
    >>> view = TransferView.of(Suite.load("digits", only=["digit", "parity"]), SmallImage(size=8), limit=40)
    >>> bool((tag_affinity(view).diagonal() > 0).all())
    True
    """
    before = view.losses()

    def value(source: str, target: str) -> float:
        after = view.losses_after(source, length)
        return 1 - after[target] / before[target] if after is not None and before.get(target) else float("nan")

    return np.array([[value(source, target) for target in view.targets] for source in view.sources])
