"""Trains a small model with every balancer, in some ways to share, and with every guard, and writes the weights.

It is run alone, or as one of several processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from allround.core import registry
from allround.models.encoders.small_table import SmallTable
from allround.models.share.plan import Choice, Level, Mixing, Plan
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.processes import Processes
from allround.training.settings import Settings
from allround.training.sharing import plan_of, share
from allround.training.term import Term, make_terms
from allround.training.trainer import train

#: Ways to share without random numbers. Of the experts of `sparse` a row reaches one, so most get no row of a step.
SHARED = {
    "adapters": plan_of("adapters", {"units": 4}),
    "ple": plan_of("ple", {"units": 8}),
    "sparse": Plan(
        levels=(Level(Mixing(Choice("mlp"), Choice("noisy_topk", {"k": 1, "noise": 0.0}), shared=6), units=8),)
    ),
}


def tasks_of(table: str | None) -> list[Task]:
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(35):
        a, b = draw.normal(size=2)
        rows.append({"a": a, "b": b, "x": "yes" if a > 0 else "no", "y": a * b, "z": "up" if b > a else "down"})
    if table:
        for row in rows[::3]:
            row["z"] = None
    data = {"train": rows[:21], "validation": rows[21:28], "test": rows[28:]}
    kinds = {"x": "classification", "y": "regression", "z": "classification"}
    missing = {"missing": "drop", "table": table} if table else {}
    return [make_task(t, kind=k, inputs=["a", "b"], target=t, data=data, **missing) for t, k in kinds.items()]


def small(tasks: list[Task]) -> SmallTable:
    """A small net for two columns of numbers."""
    return SmallTable(columns=[{"name": n, "mean": 0.0, "scale": 1.0} for n in "ab"], width=16)


def result(settings: Settings, table: str | None = None, plan: Plan | None = None) -> dict[str, Any]:
    tasks = tasks_of(table)
    torch.manual_seed(0)
    model = MultiTaskModel(small(tasks), {t.name: t.definition for t in tasks})
    model = share(model, plan) if plan else model
    for task in tasks:
        nn.init.normal_(model.heads[task.name].weight)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    course = train(model, tasks, settings, seed=0)
    return {
        "weights": {n: p.detach() for n, p in model.named_parameters()},
        "before": before,
        "losses": list(course.evaluations[-1]["losses"].values()),
        "processes": Processes(cpu=True).count,
    }


#: All terms but those of tasks that rank passages, whose losses compare the rows of a step: they refuse processes.
GUARDS = tuple(name for name in registry.names("term") if name != "candidate_scores")


def guarded(settings: Settings, guard: str) -> dict[str, Any]:
    """One task, then another, with a guard that holds the first."""
    first, _, second = tasks_of(None)
    torch.manual_seed(0)
    model = MultiTaskModel(small([first]), {t.name: t.definition for t in (first, second)})
    for task in (first, second):
        nn.init.normal_(model.heads[task.name].weight)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "old")
        named = {"muscle": "old", "distillation": "teacher"}  # what some of them are to be near to
        given: dict[str, Any] = {named[guard]: str(Path(folder) / "old")} if guard in named else {}
        # From what it is itself a model learns nothing but by labels.
        given |= {"distillation": {"answers": 0.5, "features": 1.0, "others": 1.0}}.get(guard, {})
        terms = make_terms({guard: given})
        return held(model, first, second, settings, guard, terms)


def held(
    model: MultiTaskModel, first: Task, second: Task, settings: Settings, guard: str, terms: list[Term]
) -> dict[str, Any]:
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, [first], settings, seed=0, terms=terms)
    terms[0].remembered = [first]
    course = train(model, [second if guard != "center" else first], settings.with_(epochs=4), seed=1, terms=terms)
    return {
        "weights": {n: p.detach() for n, p in model.named_parameters()},
        "before": before,
        "losses": list(course.evaluations[-1]["losses"].values()),
        "processes": Processes(cpu=True).count,
    }


def main() -> None:
    torch.set_num_threads(1)
    # Plain descent: what Adam makes of a gradient of almost zero says nothing.
    common: dict[str, Any] = {"epochs": 2, "batch_size": 7, "learning_rate": 0.05, "optimiser": "sgd", "heads": "tuned",
                              "precision": "fp32", "device": "cpu", "keep": "last", "mix": "all"}  # fmt: skip
    found = {name: result(Settings(balance=name, **common)) for name in registry.names("balance")}
    found["flat"] = result(Settings(flat=0.05, **common))
    found["flat+pcgrad"] = result(Settings(flat=0.05, balance="pcgrad", **common))
    found["accumulate"] = result(Settings(accumulate=2, **common))
    found["one"] = result(Settings(**{**common, "mix": "one"}))
    found["table"] = result(Settings(**common), table="all")
    for name, plan in SHARED.items():
        # Of three rows one process has one, which may have no target of a task.
        found[f"share {name}"] = result(Settings(**{**common, "batch_size": 3, "epochs": 1}), table="all", plan=plan)
    for guard in GUARDS:
        found[f"guard {guard}"] = guarded(Settings(**common), guard)
    torch.save(found, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
