"""experts_retrieval: how near the target's rows are to rows of the source."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView

#: Rows whose nearness to others is held at once.
_ROWS = 1000


@method(
    source="Retrieval of Experts: Jang et al., ICML 2023, arXiv:2302.03202, section 3.2; joeljang/ELM; the mean of "
    "similarities: TaskWeb, Kim et al., EMNLP 2023, arXiv:2305.13256",
    paper="Exploring the Benefits of Training Expert Language Models over Instruction Tuning",
    needs=("features",),
    cheap=True,
)
def experts_retrieval(view: TransferView, *, votes: bool = False) -> Values:
    """Look up each row of the target among the rows of the sources, without labels.

    Formula: value(s, t) = mean over rows x of t of max over rows z of s of cos(x, z), as TaskWeb takes it
    votes: the share of rows x of t whose nearest row z, among those of all sources but t, is one of s; sources that are
    equally near share a vote. The paper takes the source with most votes.
    Differs: the base embeds the rows, and no further encoder; all rows of the view count, where the paper takes 100
    of each source and 32 of the target.

    >>> nearness(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 0.0]])).round(4).tolist()
    [1.0, 0.7071]
    """

    def near(source: str, target: str) -> Values | None:
        rows, known = view.common(target), view.common(source)
        return None if rows is None or known is None else nearness(rows, known)

    if not votes:
        return view.table(lambda found: float(found.mean()), lambda source, target: [near(source, target)])

    def shares(target: str) -> dict[str, float]:
        found = {s: one for s in view.sources if s != target and (one := near(s, target)) is not None}
        if not found:
            return {}
        each = np.stack(list(found.values()))
        best = each >= each.max(0) - 1e-9
        return dict(zip(found, (best / best.sum(0)).mean(1).tolist(), strict=True))

    made = {target: shares(target) for target in view.targets}
    return view.table(float, lambda source, target: [made[target].get(source)])


def nearness(rows: Values, known: Values) -> Values:
    """The cosine of each row with the nearest known one; 0 for a row of zeros. Shapes: (n, d), (m, d) -> (n,)."""
    one, other = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (rows, known))
    return np.concatenate([(one[start : start + _ROWS] @ other.T).max(1) for start in range(0, len(one), _ROWS)])
