"""neighbours: what a source did for other targets, those that are most like the target counting most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from allround.core.registry import method
from allround.transfer.blending import standardised
from allround.transfer.matrix import TaskMatrix, Values
from allround.transfer.profiles import profiles
from allround.transfer.score import score

#: The temperatures that are tried.
TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@method(
    source="kernel regression over targets: Nadaraya, 1964; Watson, 1964; with a softmax over similarities as kernel",
    needs=("measured",),
)
def neighbours(
    estimates: Sequence[TaskMatrix], measured: TaskMatrix, *, temperature: float = 0.0, top: int = 5
) -> TaskMatrix:
    """Expect of a source for a target the weighted mean of what it did for other targets.

    Formula: value(s, t) = sum_p w(p, t) Z(s, p) / sum_p w(p, t), w(p, t) = exp(S(p, t) / temperature), over targets p
    of `measured` other than t whose Z(s, p) is known. Z is `measured` with mean 0 and spread 1 over the sources of each
    target. S is the first of `estimates`; without one, how alike p and t are by what they do for others
    (`transfer/profiles.py`). Measured transfer to t itself is not looked at.
    temperature: 0 takes, of `TEMPERATURES`, the one with the least regret at `top` sources on the other targets, each
    predicted without transfer to itself and to t. top: only used for that.
    Errors: none; a target about which nothing is known weighs all others alike.

    >>> truth = TaskMatrix("gain", ("a", "b"), ("p", "q", "t"), [[1.0, 0.0, 9.0], [0.0, 1.0, 9.0]])
    >>> alike = TaskMatrix("alike", ("p", "q"), ("p", "q", "t"), [[1.0, 0.0, 0.9], [0.0, 1.0, 0.1]])
    >>> neighbours([alike], truth, temperature=0.5).take(targets=["t"]).values.round(3).ravel().tolist()
    [0.664, -0.664]
    """
    about = estimates[0] if estimates else None
    targets = about.targets if about is not None else measured.targets
    sources = measured.sources
    values = np.full((len(sources), len(targets)), np.nan)
    for column, target in enumerate(targets):
        left = measured.without(target)
        chosen = temperature or _chosen(left, about, top)
        values[:, column] = _predicted(left, _alike(left, about, target), chosen, sources, target)
    return TaskMatrix("neighbours", sources, targets, values)


def _alike(measured: TaskMatrix, about: TaskMatrix | None, target: str) -> Mapping[str, float]:
    """How alike each task is to a target."""
    if about is None:
        return profiles(measured, target)
    column = about.gains[:, about.targets.index(target)]
    return dict(zip(about.sources, column.tolist(), strict=True))


def _predicted(
    measured: TaskMatrix, alike: Mapping[str, float], temperature: float, sources: Sequence[str], target: str
) -> Values:
    """What each of `sources` is expected to do for a target that `measured` says nothing of: (S,)."""
    near = np.array([alike.get(name, np.nan) for name in measured.targets])
    if np.isnan(near).all():
        near = np.zeros(len(near))
    weights = np.exp((near - np.nanmax(near, initial=-np.inf)) / temperature)
    table = standardised(measured.take(sources).gains)
    weights = np.where(np.isnan(table) | np.isnan(weights), 0, weights)
    sums = weights.sum(1)
    found = np.divide((weights * np.nan_to_num(table)).sum(1), sums, out=np.full(len(sums), np.nan), where=sums > 0)
    found[[name == target for name in sources]] = np.nan
    return np.asarray(found)


def _chosen(measured: TaskMatrix, about: TaskMatrix | None, top: int) -> float:
    """The temperature with the least regret on the targets of `measured`, each predicted without its own column."""
    held = [name for name in measured.targets if about is None or name in about.targets]
    tables = {name: measured.without(name) for name in held}
    near = {name: _alike(tables[name], about, name) for name in held}
    regrets = []
    for temperature in TEMPERATURES:
        columns = [_predicted(tables[name], near[name], temperature, measured.sources, name) for name in held]
        if not columns:
            return TEMPERATURES[-1]
        made = TaskMatrix("tried", measured.sources, tuple(held), np.stack(columns, 1))
        regrets.append(score(made, measured, ks=(top,)).mean(f"regret@{top}"))
    return TEMPERATURES[int(np.nanargmin(regrets))] if not np.isnan(regrets).all() else TEMPERATURES[-1]
