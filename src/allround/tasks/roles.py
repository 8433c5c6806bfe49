"""What part a task plays: training may see it, or it is held out, or it guards a general ability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from allround.core.errors import AllroundError, suggestion
from allround.core.seeds import seed_of

#: train: specialists, joint models and merges are made for it. held_out: every system is scored on it, and nothing is
#: trained, merged or chosen by it. guard: the same, but its validation score may rule a system out.
TRAIN, HELD_OUT, GUARD = "train", "held_out", "guard"
ROLES = (TRAIN, HELD_OUT, GUARD)

#: Which tasks to hold out: their names, a share of all, {"share": ..., "seed": ...} or {"category": [...]}.
HoldOut: TypeAlias = str | float | Sequence[str] | Mapping[str, object]


def held_out(asked: HoldOut, categories: Mapping[str, str], suite: str) -> tuple[str, ...]:
    """The names of the tasks to hold out, in the order of the suite.

    asked: see `HoldOut`; a text holds names with commas between, a number, or `category=NAME,NAME`. categories: the
    category of each task that training may see, or "".

    >>> held_out("b", {"a": "", "b": ""}, "s"), held_out("category=qa", {"a": "qa", "b": "nli"}, "s")
    (('b',), ('a',))
    >>> len(held_out(0.3, dict.fromkeys("abcdefghij", ""), "s"))
    3
    """
    asked = _read(asked)
    problem = f"hold out tasks of '{suite}'"
    if isinstance(asked, Mapping):
        if "category" in asked and len(asked) == 1:
            found = _of_categories(asked["category"], categories, problem)
        elif "share" in asked and set(asked) <= {"share", "seed"}:
            found = _drawn(asked["share"], asked.get("seed", 0), list(categories), problem)
        else:
            raise AllroundError(problem, f"`hold_out` has the keys {', '.join(map(str, asked))}",
                                "give names, a share, share and seed, or category")  # fmt: skip
    elif isinstance(asked, (int, float)):
        found = _drawn(asked, 0, list(categories), problem)
    else:
        for name in asked:
            if name not in categories:
                raise AllroundError(problem, f"there is no task '{name}' to hold out", suggestion(name, categories))
        found = set(asked)
    if not found:
        raise AllroundError(problem, "`hold_out` names no task", "name tasks, or leave it out")
    if len(found) == len(categories):
        raise AllroundError(problem, "no task would be left to train on", "hold out fewer")
    return tuple(name for name in categories if name in found)


def _read(asked: HoldOut) -> float | Sequence[str] | Mapping[str, object]:
    if not isinstance(asked, str):
        return asked
    key, equals, rest = asked.partition("=")
    if equals and key.strip() == "category":
        return {"category": [one.strip() for one in rest.split(",") if one.strip()]}
    try:
        return float(asked)
    except ValueError:
        return [name.strip() for name in asked.split(",") if name.strip()]


def _of_categories(asked: object, categories: Mapping[str, str], problem: str) -> set[str]:
    wanted = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, (list, tuple)) else []
    known = sorted(set(categories.values()) - {""})
    for one in wanted:
        if one not in known:
            raise AllroundError(problem, f"no task has the category {one!r}", suggestion(str(one), known))
    return {name for name, category in categories.items() if category in wanted}


def _drawn(share: object, seed: object, names: Sequence[str], problem: str) -> set[str]:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not (0 < share < 1):
        raise AllroundError(problem, f"a share of {share!r}", "give a share between 0 and 1, such as 0.3")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise AllroundError(problem, f"a seed of {seed!r}", "give a whole number")
    count = max(1, math.floor(share * len(names) + 0.5))
    order = np.random.default_rng(seed_of(seed, "hold out")).permutation(len(names))
    return {names[place] for place in order[:count].tolist()}
