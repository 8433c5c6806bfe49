"""Numbers that a balancer learns, one for each task, and the parameters that say how."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.train.balancing import Adam


def descend(
    state: dict[str, Tensor], name: str, tasks: Tensor, gradient: Tensor, *, rate: float, decay: float = 0.0
) -> None:
    """One step of Adam for the numbers `state[name]` of some tasks; those of the others, and all that Adam remembers
    of them, stay as they are. gradient: (k,) for the tasks given.

    >>> state = {"s": torch.zeros(3, dtype=torch.float64)}
    >>> descend(state, "s", torch.tensor([0, 2]), torch.tensor([1.0, -1.0]), rate=0.1)
    >>> state["s"]
    tensor([-0.1000,  0.0000,  0.1000], dtype=torch.float64)
    """
    value = state[name]
    kept = {f"{name}.{part}": state.get(f"{name}.{part}", torch.zeros_like(value)) for part in _PARTS}
    some = {key: old[tasks] for key, old in kept.items()}
    new = Adam(some, rate=rate, decay=decay).step(name, value[tasks], gradient)
    state.update({key: old.index_copy(0, tasks, some[key]) for key, old in kept.items()})
    state[name] = value.index_copy(0, tasks, new)


#: What Adam remembers of a number.
_PARTS = ("first", "second", "count")


def check_range(
    balancer: str, name: str, value: float, low: float, high: float = math.inf, *, above: bool = False
) -> None:
    """Refuse a parameter that is not between `low` and `high` (with `above`, that is not more than `low`).

    >>> check_range("dwa", "temperature", 0.0, 0, above=True)
    Traceback (most recent call last):
        ...
    allround.core.errors.AllroundError: asked: balance by 'dwa' with temperature=0.0
    found: that is out of range
    do:    give a number above 0
    """
    if math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    least = f"above {low:g}" if above else f"of at least {low:g}"
    most = f" and at most {high:g}" if high < math.inf else ""
    raise AllroundError(f"balance by '{balancer}' with {name}={value}", "that is out of range",
                        f"give a number {least}{most}")  # fmt: skip
