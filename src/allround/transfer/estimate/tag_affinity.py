"""tag_affinity: how much a step for the source lowers the loss of the target."""

from __future__ import annotations

from allround.core.registry import method
from allround.transfer.headed_base import norm_of
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="task affinity: Fifty et al., NeurIPS 2021, arXiv:2109.04617; google-research/tag",
    needs=("gradients", "labels"),
)
def tag_affinity(view: TransferView, *, share: float = 0.02, rows: int = 100) -> Values:
    """Take one step of the base for the source, and see what it does to the target, whose head stays as it is.

    Formula: value(s, t) = 1 - L_t(w - r g_s) / L_t(w); g_s is the gradient of the source's loss with respect to w, the
    parameters of the base, and r one rate for all sources
    share: r is such that no step for a source is expected to lower its own loss by more, to first order. rows: as of
    `gradient_cosine`.
    Differs: the paper averages over the steps of a joint training of all tasks, and divides by r; here there is one
    step, at the base, with linear heads that are fitted on it.

    >>> from allround.tasks.suite import Suite
    >>> from allround.models.encoders.small_image import SmallImage
    >>> view = TransferView.of(Suite.load("digits", only=["digit", "parity"]), SmallImage(size=8), limit=40)
    >>> bool((tag_affinity(view).diagonal() > 0).all())
    True
    """
    base = view.headed(rows)
    gradients = {name: found for name in view.sources if (found := view.gradient(name, rows)) is not None}
    own = {name: base.loss(name) for name in gradients}
    slope = max((norm_of(gradients[name]) ** 2 / loss for name, loss in own.items() if loss > 0), default=0.0)
    rate = share / slope if slope > 0 else 0.0
    before = {target: base.loss(target) for target in view.targets if target in base.rows}

    def changes(source: str) -> dict[str, float]:
        with base.moved(gradients[source], rate):
            return {target: 1 - base.loss(target) / loss for target, loss in before.items() if loss > 0}

    made = {source: changes(source) for source in gradients}
    return view.table(float, lambda source, target: [made.get(source, {}).get(target)])
