"""popularity: how much the source helped other targets, in measured transfer."""

from __future__ import annotations

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.score import popularity as measured_popularity
from allround.transfer.view import TransferView


@method(source="the mean gain of a source over other targets: a reference point for all estimates", needs=("runs",))
def popularity(view: TransferView) -> Values:
    """Expect of a source what it did for other targets. Nothing that was measured of the target itself is looked at.

    Formula: value(s, t) = mean over targets u != t, u != s, of the measured gain of u with s

    >>> from allround.tasks.suite import Suite
    >>> from allround.transfer.matrix import TaskMatrix
    >>> gains = TaskMatrix("gain", ("digit", "parity"), ("large", "ink"), [[1.0, 3.0], [0.0, 2.0]], kind="measured")
    >>> suite = Suite.load("digits", only=["digit", "parity", "large", "ink"])
    >>> popularity(TransferView.of(suite, runs=gains, sources=gains.sources, targets=["ink"])).tolist()
    [[1.0], [0.0]]
    """
    runs = view.runs
    assert runs is not None
    ranked = measured_popularity(runs)

    def value(source: str, target: str) -> float:
        if target in runs.targets:
            return ranked.value(source, target)
        known = [gain for gain in runs.take([source]).gains[0].tolist() if gain == gain]
        return sum(known) / len(known) if known else float("nan")

    known = {name: name if name in runs.sources else None for name in view.sources}
    return view.table(value, lambda source, target: (known[source], target))
