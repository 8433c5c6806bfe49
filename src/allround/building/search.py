"""Choosing the settings of merge methods on validation: one parameter after the other, within a number of trials."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from allround.core.entry import Entry

#: Values of a method's parameters, by name.
Setting: TypeAlias = dict[str, object]


@dataclass
class Trial:
    """One setting, and the validation score it got (mean retention)."""

    method: str
    settings: Setting
    validation: float
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    chosen: bool = False


#: A list of settings to score; their mean validation retentions come back.
SettingSearch = Generator[list[Setting], list[float], Setting]


def coordinate_search(entry: Entry, trials: int) -> SettingSearch:
    """Try each parameter's search values in turn, the others at the best so far, beginning at the defaults.

    Yields lists of settings not tried before; returns the best. At most `trials` settings in all.
    """
    searched = [p for p in entry.parameters if p.search]
    best = {p.name: p.default for p in searched}
    tried: list[tuple[Setting, float]] = []
    if not searched:
        yield [best]
        return best
    for parameter in searched:
        wanted = [{**best, parameter.name: value} for value in _nearest_first(parameter.search, best[parameter.name])]
        fresh = [s for s in wanted if s not in [t for t, _ in tried]][: trials - len(tried)]
        if fresh:
            scores = yield fresh
            tried += list(zip(fresh, scores, strict=True))
            # On a tie the earlier setting stays: it is nearer to the default.
            best = max(tried, key=lambda pair: pair[1])[0]
    return best


def most_trials(entry: Entry, trials: int) -> int:
    """The most settings that a search of a method tries.

    >>> from allround.core.registry import find
    >>> most_trials(find("merge", "average"), 12), most_trials(find("merge", "ties"), 12)
    (1, 9)
    """
    counts = [len(_nearest_first(p.search, p.default)) for p in entry.parameters if p.search]
    # Of a later parameter's values, one is tried already.
    return min(trials, 1 + sum(count - 1 for count in counts))


def _nearest_first(values: Sequence[object], default: object) -> list[object]:
    """The default first; then the values by their distance in the list from it.

    >>> _nearest_first((0.1, 0.3, 1.0), 0.3)
    [0.3, 0.1, 1.0]
    """
    values = list(values) if default in values else [default, *values]
    start = values.index(default)
    return sorted(values, key=lambda v: (abs(values.index(v) - start), values.index(v)))


def run_searches(
    entries: Sequence[Entry], trials: int, score: Callable[[list[tuple[str, Setting]]], list[Trial]]
) -> dict[str, tuple[Setting, list[Trial]]]:
    """Search all methods side by side, so that every round's settings can be scored in parallel.

    score: takes (method, settings) pairs and gives their trials in the same order. Returns for each method the
    chosen settings and all its trials.
    """
    searches = {e.name: coordinate_search(e, trials) for e in entries}
    waiting = {name: next(search) for name, search in searches.items()}
    found: dict[str, list[Trial]] = {name: [] for name in searches}
    chosen: dict[str, Setting] = {}
    while waiting:
        pairs = [(name, settings) for name, listed in waiting.items() for settings in listed]
        scored = iter(score(pairs))
        for name, listed in list(waiting.items()):
            trials_now = [next(scored) for _ in listed]
            found[name] += trials_now
            try:
                waiting[name] = searches[name].send([t.validation for t in trials_now])
            except StopIteration as stop:
                chosen[name] = stop.value
                del waiting[name]
    for name, trials_of in found.items():
        for trial in trials_of:
            trial.chosen = trial.settings == chosen[name]
    return {name: (dict(chosen[name]), found[name]) for name in searches}
