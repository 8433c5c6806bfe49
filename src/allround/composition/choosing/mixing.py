"""Weights of a library's modules for a new task, found by a few labelled rows without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from allround.composition.choosing.clusters import summed_change, write_adapter
from allround.composition.choosing.judging import few_rows, judge_of
from allround.composition.systems.routed import bank_of
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.composition.library.library import Library
    from allround.tasks.task import Split, Task


@dataclass(frozen=True)
class ModuleMix:
    """Modules mixed for a task. weights: of each module. loss: of the mix on the few rows, without the penalty. base:
    that of the base alone. tried: how many mixes were tried."""

    weights: dict[str, float]
    loss: float
    base: float
    tried: int

    def write(self, library: Library, folder: Path, *, rank: int | None = None) -> None:
        """Write the mix as one adapter of PEFT into a new folder. rank: cut to so many singular values. Errors: modules
        that are more than plain low-rank factors; a mix of nothing."""
        used = {name: weight for name, weight in self.weights.items() if weight}
        if not used:
            raise AllroundError(
                f"write a mix of the modules of {library.folder}",
                "all weights are zero: the base alone was best",
                "use the base, or give more rows or steps",
            )
        write_adapter(folder, summed_change([library.changes(name) for name in used], list(used.values()), rank))


def mix_modules(
    library: Library,
    task: Task,
    *,
    rows: int = 32,
    steps: int = 40,
    bound: float = 1.5,
    penalty: float = 0.05,
    seed: int = 0,
) -> ModuleMix:
    """Weigh the modules of a library by training rows of a task that none of them need know.

    The loss on `rows` rows plus `penalty` times the mean of |weight| is made small in `steps` trials, from zero weights
    on, each between -`bound` and `bound`. A language model's loss is that of the right answers in its own words; for
    another encoder it is the held-out loss of a linear head on its features, as in `choose_modules`. No gradient is
    computed.

    After LoraHub (Huang et al., COLM 2024, arXiv:2307.13269; its steps, bound and penalty). Differs: weights multiply
    whole changes, where its code multiplies both factors, so that weights count squared and pairs of modules mix; the
    search is SciPy's COBYLA, where it takes NGOpt of Nevergrad; and the best trial is kept.
    Errors: a library without modules; a task that no loss can be computed for.
    """
    asked = f"mix the modules of {library.folder} for the task '{task.name}'"
    if not len(library):
        raise AllroundError(asked, "it has no module", "add some: allround library add")
    if steps < 1 or not bound > 0 or penalty < 0:
        raise AllroundError(
            asked,
            f"steps is {steps}, bound is {bound} and penalty is {penalty}",
            "give steps of 1 or more, a bound above 0, and a penalty of 0 or more",
        )
    names = list(library)
    loss = _loss_of(library, names, task, few_rows(task, rows, seed), asked)
    best, value, first, tried = search(loss, len(names), steps=steps, bound=bound, penalty=penalty)
    return ModuleMix(dict(zip(names, best.tolist(), strict=True)), value, first, tried)


def search(
    loss: Callable[[NDArray[np.float64]], float], count: int, *, steps: int, bound: float, penalty: float
) -> tuple[NDArray[np.float64], float, float, int]:
    """The best weights that were tried, their loss, that of zero weights, and how many were tried."""
    from scipy.optimize import minimize

    tried: list[tuple[float, float, NDArray[np.float64]]] = []

    def judged(given: NDArray[np.float64]) -> float:
        weights = np.clip(given, -bound, bound)
        value = loss(weights)
        tried.append((value + penalty * float(np.abs(weights).mean()), value, weights))
        return tried[-1][0]

    judged(np.zeros(count))
    first = tried[0][1]
    minimize(judged, np.zeros(count), method="COBYLA", bounds=[(-bound, bound)] * count,
             options={"maxiter": steps, "rhobeg": bound / 3})  # fmt: skip
    _, value, best = min(tried, key=lambda one: one[0])
    return best, value, first, len(tried)


def _loss_of(
    library: Library, names: Sequence[str], task: Task, few: Split, asked: str
) -> Callable[[NDArray[np.float64]], float]:
    """The loss on a few rows as a function of the modules' weights."""
    from allround.models.base import load_encoder

    encoder = load_encoder(library.base_folder)
    bank = bank_of(encoder, [library.member(name) for name in names], library.base_folder)
    judge = judge_of(encoder, task, few, asked)

    def loss(weights: NDArray[np.float64]) -> float:
        with bank.using(torch.tensor(weights, dtype=torch.float32)[None]):
            return judge.loss()

    return loss
