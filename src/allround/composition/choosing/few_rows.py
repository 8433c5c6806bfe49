"""Which modules of a library to take for a new task, by a few labelled rows of it: what each makes of them, and how
unlike the others it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from allround.composition.choosing.clusters import cosines
from allround.composition.systems.routed import bank_of
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.models.running import features_of

if TYPE_CHECKING:
    from allround.composition.library.library import Library
    from allround.tasks.task import Split, Task

#: Parts that held-out losses are taken over, at most.
FOLDS = 5
#: The most modules whose sets are all compared.
POOL = 12


@dataclass(frozen=True)
class ModuleChoice:
    """Modules for a new task. chosen: their names, the best first. losses: of each module of the library, the held-out
    loss of a head on what the base makes of the rows with that module. base: that loss without a module."""

    chosen: tuple[str, ...]
    losses: dict[str, float]
    base: float


def choose_modules(library: Library, task: Task, count: int, *, rows: int = 32, seed: int = 0) -> ModuleChoice:
    """Choose `count` modules of a library by training rows of a task that none of them need know.

    A module's loss is that of a linear head on its features of the rows, each row held out once: mean negative
    log-likelihood of labels, or the mean squared error of a number divided by its variance. Of the modules with the
    least loss, twice as many as are asked for and at most 12, those of which the sum of |cosine| of the changes of each
    two is least are chosen, and that with the least loss is always among them.

    After Rocket ("Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models"), which chooses by
    accuracy and perplexity of language models, and by likeness. Differs: a head is fitted, since modules of encoders
    have none for a new task; cosines are those of the changes, not of their factors; and nothing is trained after it.
    Errors: tasks of other kinds than classification and regression; fewer than two rows of a label.
    """
    asked = f"choose {count} of the modules of {library.folder} for the task '{task.name}'"
    if not 1 <= count <= len(library):
        raise AllroundError(asked, f"the library has {len(library)}", f"give 1 to {len(library)}")
    few = few_rows(task, rows, seed)
    folds, names = folds_of(task, few, asked), list(library)
    targets = np.asarray(few.targets)
    losses, base = _losses(library, names, task, few.inputs, targets, folds)
    found = dict(zip(names, losses, strict=True))
    pool = sorted(names, key=found.__getitem__)[: min(max(2 * count, count + 1), max(POOL, count))]
    first, *rest = pool
    alike = cosines([library.changes(name) for name in pool]).abs()
    number = {name: place for place, name in enumerate(pool)}

    def likeness(some: Sequence[str]) -> float:
        return sum(float(alike[number[one], number[other]]) for one, other in combinations((first, *some), 2))

    best = min(combinations(rest, count - 1), key=lambda some: (round(likeness(some), 9), sum(found[n] for n in some)))
    return ModuleChoice((first, *best), found, base)


def few_rows(task: Task, rows: int, seed: int) -> Split:
    """So many training rows of a task, drawn by the seed."""
    split = task.splits["train"]
    return split.take(np.random.default_rng(seed_of(seed, "choose", task.name)).permutation(len(split))[:rows].tolist())


def folds_of(task: Task, few: Split, asked: str) -> int:
    """In how many parts rows are held out. Errors: a kind that no head is fitted for here; too few rows of a label."""
    kind = task.definition.kind
    if kind not in ("classification", "regression"):
        raise AllroundError(asked, f"the task is of the kind {kind}", "give one of: classification, regression")
    targets = np.asarray(few.targets)
    folds = min(FOLDS, *np.unique(targets, return_counts=True)[1].tolist()) if kind == "classification" else FOLDS
    if len(few) < folds or folds < 2 or len(np.unique(targets)) < 2:
        raise AllroundError(asked, f"of the {len(few)} rows too few are of one label", "take more rows")
    return folds


@torch.inference_mode()
def _losses(
    library: Library, names: Sequence[str], task: Task, inputs: Sequence[Any], targets: NDArray[Any], folds: int
) -> tuple[list[float], float]:
    """The held-out loss with each module, and that of the base."""
    from allround.models.base import load_encoder

    encoder = load_encoder(library.base_folder)
    bank = bank_of(encoder, [library.member(name) for name in names], library.base_folder, keep=1)
    prepared = encoder.prepare(inputs, task.definition)
    base = held_out_loss(features_of(encoder, prepared, task.definition).values.numpy(), targets, folds)
    found = []
    for column in torch.eye(len(names)):
        with bank.using(column[None]):
            features = features_of(encoder, prepared, task.definition).values.numpy()
        found.append(held_out_loss(features, targets, folds))
    return found, base


def held_out_loss(features: NDArray[Any], targets: NDArray[Any], folds: int) -> float:
    """The loss of a linear head on rows that it was not fitted on."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if targets.dtype.kind == "f":
        parts = KFold(folds, shuffle=True, random_state=0)
        made = cross_val_predict(make_pipeline(StandardScaler(), Ridge(1.0)), features, targets, cv=parts)
        return float(np.mean((made - targets) ** 2) / np.var(targets))
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    made = cross_val_predict(model, features, targets, cv=parts, method="predict_proba")
    places = np.searchsorted(np.unique(targets), targets)
    return float(-np.log(np.clip(made[np.arange(len(made)), places], 1e-12, None)).mean())
