"""Estimates of transfer: what is expected of each pair of tasks before anything is trained on both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allround.core import registry
from allround.core.errors import AllroundError
from allround.transfer.matrix import TaskMatrix, Values
from allround.transfer.view import TransferView

#: What an estimator that needs it is missing, and where it comes from.
_MISSING = {
    "features": ("features of a base", "give a base"),
    "heads": ("heads of the sources", "give a base, or specialists"),
    "gradients": ("gradients of a base", "give a base"),
    "models": ("specialists of the sources", "give models"),
    "runs": ("measured transfer", "give runs: a measured matrix"),
}


@dataclass(frozen=True)
class Estimates:
    """What estimators said, and of those that said nothing, why."""

    matrices: tuple[TaskMatrix, ...]
    left_out: Mapping[str, str]


def estimate(name: str, view: TransferView, settings: Mapping[str, object] | None = None) -> TaskMatrix:
    """What an estimator expects of each source for each target.

    name: of a method of the family `estimate`, also with settings, such as `divergence:kind=coral`; the matrix is
    called so. From a task to itself nothing is expected. seconds: what it would have taken alone, with the features,
    heads and gradients that it looked at. Errors: the view lacks what the estimator needs.
    """
    method, spelled = registry.spelled("estimate", name)
    entry = registry.find("estimate", method)
    missing = [need for need in entry.needs if need not in view.has]
    if missing:
        what, do = _MISSING[missing[0]]
        raise AllroundError(f"estimate transfer by '{name}'", f"it needs {what}, and there are none", do)
    given = entry.resolve({**spelled, **(settings or {})})
    values, seconds = view.costs.timed(lambda: entry.load()(view, **given))
    return TaskMatrix(
        name,
        view.sources,
        view.targets,
        np.where(np.array(view.sources)[:, None] == np.array(view.targets), np.nan, values),
        higher_is_better=entry.facts["better"] == "higher",
        symmetric=entry.facts["symmetric"] and view.sources == view.targets,
        seconds=seconds,
    )


def estimates(view: TransferView, names: Sequence[str] | None = None) -> Estimates:
    """What several estimators expect; those are left out that need what the view lacks, or know no pair at all.

    names: as in `estimate`; all that there are where it is None. Errors: an unknown name or setting.
    """
    found, left_out = [], {}
    for name in registry.names("estimate") if names is None else names:
        missing = [need for need in registry.find("estimate", registry.spelled("estimate", name)[0]).needs
                   if need not in view.has]  # fmt: skip
        if missing:
            left_out[name] = f"it needs {_MISSING[missing[0]][0]}"
            continue
        made = estimate(name, view)
        if np.isnan(made.values).all():
            left_out[name] = "it knows nothing of any pair of these tasks"
        else:
            found.append(made)
    return Estimates(tuple(found), left_out)


def cosine(one: Values, other: Values) -> float:
    """The cosine of two vectors; 0 where one of them is zero.

    >>> round(cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])), 4)
    0.7071
    """
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 0 else 0.0
