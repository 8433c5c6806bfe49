"""Which modules of a library to take for a new task, by a few labelled rows of it: what each makes of them, and how
unlike the others it is; and a gate over the chosen ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from allround.composition.choosing.clusters import cosines
from allround.composition.choosing.judging import Judge, few_rows, judge_of
from allround.composition.systems.routed import bank_of
from allround.core.errors import AllroundError

if TYPE_CHECKING:
    from allround.composition.library.library import Library
    from allround.composition.systems.routed import Routed
    from allround.tasks.task import Task

#: The most modules whose sets are all compared.
POOL = 12
#: What weighs the chosen modules.
GATE = "learned_gate:per=layer;top=2"


@dataclass(frozen=True)
class ModuleChoice:
    """Modules for a new task. chosen: their names, the best first. losses: of each module of the library, the loss of
    a language model's own words, or the held-out loss of a head on what the base makes of the rows with that module.
    scores: of a language model's answers with each module; higher is better. base: the loss without a module."""

    chosen: tuple[str, ...]
    losses: dict[str, float]
    base: float
    scores: dict[str, float] = field(default_factory=dict)


def choose_modules(
    library: Library, task: Task, count: int, *, rows: int = 32, reasons: str = "", seed: int = 0
) -> ModuleChoice:
    """Choose `count` modules of a library by training rows of a task that none of them need know.

    A language model is judged by its own words: the mean negative log-likelihood of the right answers, or of the worked
    reasons in the column `reasons` (one of the task's `slices`), and the score of what it answers; modules are ordered
    by the sum of their ranks in both. Any other encoder is judged by a linear head on its features of the rows, each
    row held out once: mean negative log-likelihood of labels, or the mean squared error of a number divided by its
    variance. Of the best modules, twice as many as are asked for and at most 12, those of which the sum of |cosine| of
    the changes of each two is least are chosen, and the best one is always among them.

    After Rocket ("Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models"), which chooses by
    accuracy and perplexity on worked reasons, and by likeness. Differs: cosines are those of the changes, not of their
    factors.
    Errors: of encoders, tasks of other kinds than classification and regression; fewer than two rows of a label.
    """
    asked = f"choose {count} of the modules of {library.folder} for the task '{task.name}'"
    if not 1 <= count <= len(library):
        raise AllroundError(asked, f"the library has {len(library)}", f"give 1 to {len(library)}")
    losses, scores, base = _judged(library, task, rows, reasons, seed, asked)
    order = ranked(losses, scores)
    pool = order[: min(max(2 * count, count + 1), max(POOL, count))]
    first, *rest = pool
    alike = cosines([library.changes(name) for name in pool]).abs()
    number = {name: place for place, name in enumerate(pool)}

    def likeness(some: Sequence[str]) -> float:
        return sum(float(alike[number[one], number[other]]) for one, other in combinations((first, *some), 2))

    best = min(combinations(rest, count - 1),
               key=lambda some: (round(likeness(some), 9), sum(number[name] for name in some)))  # fmt: skip
    return ModuleChoice((first, *best), losses, base, scores)


def ranked(losses: dict[str, float], scores: dict[str, float]) -> list[str]:
    """Names from the best to the worst, by the sum of their ranks; of equal sums the least loss. Equal scores have an
    equal rank.

    >>> ranked({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 0.5, "b": 0.9, "c": 0.9})
    ['b', 'a', 'c']
    """
    by_loss = sorted(losses, key=losses.__getitem__)
    by_score = {name: sum(other > own for other in scores.values()) for name, own in scores.items()}
    return sorted(by_loss, key=lambda name: by_loss.index(name) + by_score.get(name, 0))


def _judged(
    library: Library, task: Task, rows: int, reasons: str, seed: int, asked: str
) -> tuple[dict[str, float], dict[str, float], float]:
    """The loss and the score with each module, and the loss of the base."""
    from allround.models.base import load_encoder

    names = list(library)
    encoder = load_encoder(library.base_folder)
    bank = bank_of(encoder, [library.member(name) for name in names], library.base_folder, keep=1)
    judge: Judge = judge_of(encoder, task, few_rows(task, rows, seed), asked, reasons)
    base, losses, scores = judge.loss(), {}, {}
    for name, column in zip(names, torch.eye(len(names)), strict=True):
        with bank.using(column[None]):
            losses[name], score = judge.loss(), judge.score()
        if score is not None:
            scores[name] = score
    return losses, scores, base


def gate_modules(
    library: Library,
    task: Task,
    chosen: Sequence[str],
    *,
    router: str = GATE,
    rows: int = 32,
    others: Sequence[Task] = (),
    open_rows: int = 0,
    seed: int = 0,
) -> Routed:
    """A system for a new task: modules of a library, weighed by a router that is trained on a few rows of the task, and
    on the `open_rows` training rows of other tasks that are nearest to them.

    The default router is the gate of Rocket: at each layer a softmax over the two modules that it finds best. Heads
    with weights are fitted on the frozen base. Differs: the modules stay as they are, where the paper trains them too.
    Errors: a router that needs modules of the task's own.
    """
    from allround.composition.choosing.open_rows import like_rows
    from allround.composition.routing import make_routed
    from allround.composition.systems.routed import Member
    from allround.core import registry
    from allround.models.base import load_encoder
    from allround.models.fitting import fit_head

    name, settings = registry.spelled("route", router)
    encoder, few = load_encoder(library.base_folder), few_rows(task, rows, seed)
    tasks = [replace(task, splits={**task.splits, "train": few})]
    if open_rows:
        tasks += like_rows(encoder, task, few, others, open_rows)
    heads = {one.name: fit_head(encoder, one).state for one in tasks}
    members = [Member(one, library.folder_of(one), ()) for one in chosen]
    return make_routed(library.base_folder, members, {one.name: one for one in tasks}, heads, router=name,
                       router_settings=settings, seed=seed, encoder=encoder)  # fmt: skip
