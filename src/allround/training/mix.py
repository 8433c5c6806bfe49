"""Which feeds may share a step of training."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.errors import AllroundError


def parse_mix(mix: str, kinds: Sequence[str]) -> tuple[list[list[int]], int]:
    """Which feeds may share a step, from the setting `mix` and each feed's kind: groups of feeds (a step never holds
    feeds of two groups), and how many feeds a step holds at most.

    >>> parse_mix("kind", ["classification", "regression", "classification"])
    ([[0, 2], [1]], 2)
    >>> parse_mix("2", ["classification", "regression", "classification"])
    ([[0, 1, 2]], 2)
    """
    everyone = [list(range(len(kinds)))]
    if mix == "one":
        return everyone, 1
    if mix == "all":
        return everyone, max(1, len(kinds))
    if mix == "kind":
        groups = [[f for f, kind in enumerate(kinds) if kind == one] for one in dict.fromkeys(kinds)]
        return groups, max(map(len, groups), default=1)
    if mix.isascii() and mix.isdigit() and int(mix) > 0:
        return everyone, max(1, min(int(mix), len(kinds)))
    raise AllroundError(
        f"train with mix={mix!r}",
        "there is no such mix",
        "give 'one' (task in a step), 'all', 'kind' (tasks of one kind), or how many tasks a step holds, such as '4'",
    )
