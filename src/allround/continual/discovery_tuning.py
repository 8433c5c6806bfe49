"""Settings of a way to find novel classes, chosen without a label of these: known classes are hidden in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np

from allround.continual.discovering import Labels, NovelRows, group_accuracy, make_discovery
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of

#: How many times known classes are hidden.
FOLDS = 3


def tuned_settings(
    name: str, rows: NovelRows, given: Mapping[str, object] | None = None, *, folds: int = FOLDS, seed: int = 0
) -> tuple[dict[str, object], float | None]:
    """The settings with which known classes that are hidden are found best, and the mean accuracy of that.

    All values that a way's parameters are searched over are tried together, but for those that are given; None where it
    has none. In each of `folds` about a third of the known classes are hidden, and the novel rows are left out.
    Troisemaine et al., Data Mining and Knowledge Discovery 2024, arXiv:2311.05440, section 3.
    Errors: fewer than four known classes.
    """
    entry, given = registry.find("discover", name), dict(given or {})
    searched = {p.name: p.search for p in entry.parameters if p.search and p.name not in given}
    if not searched:
        return given, None
    if rows.classes < 4:
        raise AllroundError(f"tune '{name}' by hiding known classes", f"there are {rows.classes}",
                            "give rows of four known classes or more, or leave tuning out")  # fmt: skip
    folded = [(seen, truth, seed_of(seed, "fold", fold)) for fold, (seen, truth) in enumerate(hide(rows, folds, seed))]
    best: tuple[float, dict[str, object]] | None = None
    for values in product(*searched.values()):
        settings = {**given, **dict(zip(searched, values, strict=True))}
        way = make_discovery(name, settings)
        found = [group_accuracy(truth, way.find(seen, int(truth.max()) + 1, at).groups) for seen, truth, at in folded]
        if best is None or float(np.mean(found)) > best[0]:
            best = float(np.mean(found)), settings
    assert best is not None
    return best[1], best[0]


def hide(rows: NovelRows, folds: int, seed: int) -> Iterator[tuple[NovelRows, Labels]]:
    """Known rows of which some classes are hidden, and the labels of these; none is hidden twice before all were."""
    count = max(2, rows.classes // 3)
    order: list[int] = []
    for fold in range(folds):
        while len(order) < count:
            drawn = np.random.default_rng(seed_of(seed, "hide", fold, len(order))).permutation(rows.classes).tolist()
            order += [one for one in drawn if one not in order]
        hidden, order = order[:count], order[count:]
        away = np.isin(rows.labels, hidden)
        _, seen = np.unique(rows.labels[~away], return_inverse=True)
        _, truth = np.unique(rows.labels[away], return_inverse=True)
        yield NovelRows(rows.known[~away], seen, rows.known[away]), truth
