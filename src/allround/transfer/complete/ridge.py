"""ridge: this model as a mixture of the others, fitted on the tasks that are known."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values


@method(source="ridge regression: Hoerl and Kennard, Technometrics 12, 1970, with other models as inputs")
def ridge(others: Values, given: Values, *, penalty: float = 0.1) -> Values:
    """Weigh what each other model differs from their mean, so that the known tasks fit.

    Shapes: others (M, T), given (T,) with NaN -> (T,)
    Formula: c + w Z, w = argmin |w Z_k - (given_k - c_k)|^2 + penalty * mean_m |Z_mk|^2 * |w|^2; c the means of the
    others, Z = others - c, _k the known tasks

    >>> ridge(np.array([[0.2, 0.2, 0.4], [0.4, 0.6, 0.8]]), np.array([0.4, 0.6, np.nan]), penalty=0.0).round(3).tolist()
    [0.4, 0.6, 0.8]
    """
    centre, known = others.mean(0), ~np.isnan(given)
    gaps = others - centre
    inner = gaps[:, known] @ gaps[:, known].T
    inner += (penalty * np.trace(inner) / len(others) + 1e-12) * np.eye(len(others))
    return np.asarray(centre + np.linalg.solve(inner, gaps[:, known] @ (given - centre)[known]) @ gaps)
