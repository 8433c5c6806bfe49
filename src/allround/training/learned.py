"""Numbers that a balancer learns, one for each task, and the parameters that say how."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.training.balancing import Adam

#: A task that was missing for long makes up for this many rounds at once, and for the rest when it comes next: one
#: batch is not to decide alone.
MOST_ROUNDS = 10.0


def rounds(state: dict[str, Tensor], tasks: Tensor, everyone: int) -> Tensor:
    """How far the tasks of a step move: as many rounds as each of them is behind the training: (k,) float64, above 0
    and at most 10. To be asked once for each step.

    A round is as many batches as there are tasks (`everyone`). So tasks that are in every step move by 1 each time;
    of the others, a rare one moves further each time that it is there, and what a task has moved in all does not
    depend on how often it is drawn.

    >>> state = {}
    >>> for tasks in ([0], [0], [0], [1], [0, 1]):
    ...     print(rounds(state, torch.tensor(tasks), 2).tolist())
    [0.5]
    [0.5]
    [0.5]
    [2.0]
    [1.5, 1.0]
    """
    done = state.get("batches", torch.zeros(everyone, dtype=torch.float64))
    total = state.get("batches.all", torch.zeros((), dtype=torch.float64)) + len(tasks)
    behind = (total - done[tasks]).clamp_max(MOST_ROUNDS * everyone)
    state.update({"batches": done.index_add(0, tasks, behind), "batches.all": total})
    return behind / everyone


def descend(
    state: dict[str, Tensor], name: str, tasks: Tensor, gradient: Tensor, *, rate: float, decay: float = 0.0
) -> None:
    """Steps of Adam for the numbers `state[name]` of some tasks, as many as their `rounds`; those of the others, and
    all that Adam remembers of them, stay as they are. gradient: (k,) for the tasks given.

    >>> state = {"s": torch.zeros(3, dtype=torch.float64)}
    >>> descend(state, "s", torch.tensor([0, 1, 2]), torch.tensor([1.0, 1.0, -1.0]), rate=0.1)
    >>> state["s"]
    tensor([-0.1000, -0.1000,  0.1000], dtype=torch.float64)
    """
    value = state[name]
    kept = {f"{name}.{part}": state.get(f"{name}.{part}", torch.zeros_like(value)) for part in _PARTS}
    some = {key: old[tasks] for key, old in kept.items()}
    new = Adam(some, rate=rate, decay=decay).step(name, value[tasks], gradient, rounds(state, tasks, len(value)))
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
