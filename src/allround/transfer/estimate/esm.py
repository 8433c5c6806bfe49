"""esm: how well the target's labels follow from the base's features, mapped to those of the source's specialist."""

from __future__ import annotations

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.transfer.estimate.logme import score as evidence
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="Embedding Space Maps: Schulte et al., EMNLP 2024; davidschulte/hf-dataset-selector",
    paper="Less is More: Parameter-Efficient Selection of Intermediate Tasks for Transfer Learning",
    needs=("features", "models", "labels"),
    cheap=True,
)
def esm(view: TransferView, *, penalty: float = 0.1) -> Values:
    """Learn of each specialist one linear map, from the base's features of its own rows to its own; for a target only
    the base reads rows, and the maps stand for all specialists.

    Formula: value(s, t) = LogME of F_t W_s + b_s; W_s, b_s minimise mean |x W + b - y|^2 + penalty v |W - I|^2 over
    rows of s, x and y being a row's features by the base and by the specialist, and v the mean variance of entries of x
    penalty: what holds the map to the identity. A specialist without rows, or with features of another width, has none.
    Differs: the minimum is found exactly, and a direction that no row has is passed on as it is; the authors begin at
    random, take ten epochs of AdamW, and decay weights to zero. Of pairs of texts the mean of both is mapped. In the
    authors' code a trainer's second map gets the optimiser of the first, and stays untrained.

    >>> weight, bias = fitted(np.array([[-1.0], [1.0]]), np.array([[-1.0], [5.0]]), 0.5)
    >>> weight.round(4).tolist(), bias.round(4).tolist()
    ([[2.3333]], [2.0])
    """
    if not penalty > 0:
        raise AllroundError(f"fit maps with the penalty {penalty:g}", "it must be above 0", "give such as 0.1")
    maps: dict[str, tuple[Values, Values]] = {}
    for source in view.sources:
        before, after = view.common(source), view.common(source, source) if source in view.models else None
        if before is not None and after is not None and before.shape == after.shape:
            maps[source] = fitted(before, after, penalty)

    def mapped(source: str, target: str) -> Values | None:
        features = view.common(target)
        if features is None or source not in maps:
            return None
        weight, bias = maps[source]
        return np.asarray(features @ weight + bias)

    return view.table(evidence, lambda source, target: (mapped(source, target), view.columns(target)))


def fitted(before: Values, after: Values, penalty: float) -> tuple[Values, Values]:
    """The map that turns some features into others, and its constant. Shapes: (n, d), (n, d) -> (d, d), (d,)."""
    x, y = before - before.mean(0), after - after.mean(0)
    hold = penalty * (float(np.square(x).mean()) or 1.0) * np.eye(x.shape[1])
    weight = np.linalg.solve(x.T @ x / len(x) + hold, x.T @ y / len(x) + hold)
    return weight, after.mean(0) - before.mean(0) @ weight
