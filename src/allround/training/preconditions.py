"""What must hold before training begins: tasks that can be trained, and settings that fit them."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.likelihood import likelihood
from allround.models.model import Model
from allround.tasks.kind import kind
from allround.tasks.task import Task
from allround.training.balancing import Outline, make_balancer, per_task
from allround.training.gradients import check_parts
from allround.training.mix import parse_mix
from allround.training.settings import Settings
from allround.training.sharing import check_start, plan_of
from allround.training.term import Term


def check_tasks(model: Model, tasks: Sequence[Task]) -> None:
    """Refuse tasks that cannot be trained."""
    if not tasks:
        raise AllroundError("train on no task", "there is nothing to learn", "give one task or more")
    names = [task.name for task in tasks]
    for task in tasks:
        model.definition(task.name)
        asked = f"train on task '{task.name}'"
        if names.count(task.name) > 1:
            raise AllroundError(asked, "two tasks have that name", "give each task once, and its own name")
        for split in ("train", "validation"):
            if not len(task.splits.get(split, ())):
                raise AllroundError(asked, f"it has no {split} rows", "give it some, or leave it out")


def check_heads(model: Model, tasks: Sequence[Task], settings: Settings) -> None:
    """Refuse heads that stay as they began: they answer zeros, and no gradient passes through them."""
    untrained = [task.name for task in tasks if model.untrained(task.name)] if settings.heads == "frozen" else []
    if untrained:
        raise AllroundError(
            f"train with frozen heads on {', '.join(untrained)}",
            "these heads are untrained: they answer zeros, so nothing would be learned",
            "fit them first (model.add_task(definition, fit_head(model.encoder, task).state)), or let them be tuned: "
            "heads='tuned'",
        )


def check_whole(model: Model, tasks: Sequence[Task], settings: Settings, processes: int) -> None:
    """Refuse parts of a batch for tasks whose loss compares its rows with each other."""
    across = [task.name for task in tasks if model.across(task.name)]
    if across and (settings.accumulate > 1 or processes > 1):
        raise AllroundError(
            f"train on {', '.join(across)} with parts of a batch "
            + (f"(accumulate={settings.accumulate})" if settings.accumulate > 1 else f"in {processes} processes"),
            "the loss compares the rows of a batch with each other, so it is no sum over parts",
            "save memory by chunk (--chunk), which computes the same in less, and train in one process",
        )


def check_terms(terms: Sequence[Term], settings: Settings) -> None:
    """Refuse terms that hold the weights of earlier trainings where each training has weights of its own."""
    names = [type(term).__name__ for term in terms if term.holds_weights]
    if names and settings.tune == "lora":
        raise AllroundError(
            f"train a LoRA adapter with the term {names[0]}",
            "it holds weights from one training to the next, and each adapter has weights of its own",
            "train all weights (tune='all'), or use a guard that holds answers, such as lwf",
        )


def check_settings(settings: Settings, tasks: Sequence[Task]) -> None:
    """Refuse settings that do not fit the tasks, before anything is computed."""
    entry, outline = registry.find("balance", settings.balance), outline_of(tasks)
    balancer = make_balancer(settings.balance, settings.balance_settings, outline)
    check_parts(entry, settings.flat, settings.accumulate)
    check_start(plan_of(settings.share, settings.share_settings), [task.name for task in tasks])
    per_task(settings.task_rates, outline, "learning rate factors")
    known = {n for t in tasks for n in (t.name, t.table, t.definition.kind) if n}
    for name in settings.batch_sizes:
        if name not in known:
            raise AllroundError(
                f"set the batch size of '{name}'", "no task, table or kind of task is called so",
                f"use one of: {', '.join(sorted(known))}",
            )  # fmt: skip
    tables = [t.table for t in tasks if t.table]
    most = parse_mix(settings.mix, [t.definition.kind for t in tasks])[1]
    single = most == 1 and len(set(tables)) == len(tables)
    if single and len(tasks) > 1 and not balancer.alone(settings.raw_scale or entry.facts["raw"]):
        raise AllroundError(
            f"balance by '{settings.balance}' with steps of one task each",
            f"'{settings.balance}' weighs the tasks of a step against each other",
            "let a step hold several tasks: mix=all (--mix all)",
        )


def _without_outputs(task: Task) -> bool:
    """Whether the answers of a task come from texts or vectors, and no head gives numbers for them."""
    rules = kind(task.definition.kind)
    return rules.written or rules.ranked


def outline_of(tasks: Sequence[Task], steps: int = 1, epoch: int = 1) -> Outline:
    """What a balancer is told of the tasks. steps: of the whole training; epoch: steps between two evaluations."""
    return Outline(
        tuple(t.name for t in tasks),
        tuple(1 if _without_outputs(t) else likelihood(t.definition).outputs(t.definition) for t in tasks),
        tuple(len(t.splits["train"]) for t in tasks),
        steps=steps,
        epoch=epoch,
    )
