"""delta_cosine: whether two specialists changed the base in the same direction."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="cosine of task vectors: Ilharco et al., ICLR 2023, arXiv:2212.04089; Vu et al., EMNLP 2020",
    needs=("features", "models"),
    symmetric=True,
    self_best=True,
    cheap=True,
)
def delta_cosine(view: TransferView) -> Values:
    """Compare specialists by what they changed of the base that they share; heads are left out.

    Formula: value(s, t) = cos(d_s, d_t), d being all parameters less those of the base

    >>> cosines(np.array([[4.0, 2.0], [2.0, 4.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    names, changes = view.deltas()
    products = np.zeros((len(names), len(names)))
    for part in changes:
        products += (part @ part.T).numpy()
    return view.of_models(names, cosines(products))


def cosines(products: Values) -> Values:
    """Cosines from the inner products of k changes, (k, k). NaN for one that is zero."""
    norms = np.sqrt(products.diagonal())
    scale = np.outer(norms, norms)
    return np.asarray(np.divide(products, scale, out=np.full(products.shape, np.nan), where=scale > 0))
