"""Ways to find novel classes, compared on a task whose labels are known: some of them are hidden."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allround.composition.router import plain_vectors
from allround.continual.discovering import NovelRows, group_scores, make_discovery
from allround.continual.discovery_tuning import tuned_settings
from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.core.progress import Progress, make_console
from allround.core.seeds import seed_of
from allround.core.words import duration, printable
from allround.evaluation.intervals import Interval, mean_interval
from allround.evaluation.pages import settings_text
from allround.evaluation.tables import console_table
from allround.models.base import open_encoder
from allround.models.table_inputs import columns_for, read_rows
from allround.tasks.task import Task

#: What is said of groups beside their number.
SCORES = ("accuracy", "nmi", "ari")


@dataclass(frozen=True)
class FoundBy:
    """How well a way finds hidden classes. scores: of `SCORES`, by seed. counts: of groups, by seed. tuned: by what
    accuracy its settings were chosen on known classes that were hidden; None where they were not."""

    way: str
    settings: dict[str, object]
    scores: dict[str, list[float]]
    counts: list[int]
    seconds: float
    tuned: float | None = None

    def mean(self, score: str) -> Interval:
        """Over seeds."""
        return mean_interval(self.scores[score])


@dataclass(frozen=True)
class DiscoveryResults:
    """Ways to find the hidden classes of a task, by `FoundBy`, the most accurate first."""

    task: str
    hidden: tuple[str, ...]
    known: tuple[str, ...]
    rows: dict[str, int]
    found: tuple[FoundBy, ...] = field(default_factory=tuple)

    def print(self) -> None:
        """Print a table."""
        table, console = console_table(), make_console()
        for place, name in enumerate(("way", *SCORES, "groups", "time")):
            table.add_column(name, justify="right" if place else "left", no_wrap=place > 0)
        for one in self.found:
            groups = ", ".join(map(str, sorted(set(one.counts))))
            table.add_row(printable(one.way), *(_text(one.mean(score)) for score in SCORES), groups,
                          duration(one.seconds))  # fmt: skip
        console.print(table)
        hidden, known = len(self.hidden), len(self.known)
        lines = [
            f"{self.rows['novel']:,} rows of {hidden} hidden labels of {self.task}, beside {self.rows['known']:,} rows "
            f"of {known} known ones; x 100, means over seeds with 95% intervals. accuracy: each group is given to the "
            "label that fits best, no label twice; nmi: normalised mutual information; ari: adjusted Rand index."
        ]
        for one in self.found:
            if one.tuned is not None:
                score = f"accuracy {100 * one.tuned:.1f} on known labels that are hidden"
                lines.append(f"{one.way}: {settings_text(one.settings)}, {score}")
        for line in lines:
            console.print(printable(line), markup=False, highlight=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "task": self.task,
            "hidden": list(self.hidden),
            "rows": self.rows,
            "ways": [{"way": one.way, "settings": one.settings, "scores": one.scores, "groups": one.counts,
                      "seconds": one.seconds, "tuned": one.tuned} for one in self.found],
        }  # fmt: skip


def discover(
    task: Task,
    hide: Sequence[str],
    *,
    ways: Sequence[str] = (),
    count: int | None = None,
    estimate: bool = False,
    tune: bool = False,
    seeds: int = 1,
    base: str | Path | None = None,
    progress: Progress | None = None,
) -> DiscoveryResults:
    """Hide some labels of a task, find their classes again among their rows, and score what was found by the labels.

    Training rows are looked at, those of the other labels with their labels. ways: of
    `allround.methods("discover")` with settings behind a colon; by default all. count: of classes that are looked for;
    by default as many as are hidden, or with `estimate` as many as each way finds likely. tune: choose settings by
    hiding known classes (`tuned_settings`). base: an encoder whose vectors stand for the rows; a table needs none.

    Errors: a task without single labels; labels that it does not have; fewer than two that are hidden, or two left.
    """
    asked = f"find hidden labels of '{task.name}'"
    labels = task.definition.labels
    if task.definition.kind != "classification":
        raise AllroundError(asked, f"it is a task of the kind {task.definition.kind}", "give a classification task")
    for name in hide:
        if name not in labels:
            raise AllroundError(asked, f"it has no label '{name}'", suggestion(name, labels))
    hidden = tuple(dict.fromkeys(hide))
    if len(hidden) < 2 or len(labels) - len(hidden) < 2:
        raise AllroundError(asked, f"{len(hidden)} of {len(labels)} labels are hidden",
                            "hide two or more, and leave two or more")  # fmt: skip
    if count is not None and estimate:
        raise AllroundError(asked, "a number of classes was given, and one is to be estimated", "give one of the two")
    if seeds < 1:
        raise AllroundError(asked, f"--seeds is {seeds}", "give 1 or more")
    progress = progress or Progress(quiet=True)
    vectors, targets = row_vectors(task, base, asked), np.asarray(task.splits["train"].targets)
    away = np.isin(targets, [labels.index(name) for name in hidden])
    truth = targets[away]
    rows = NovelRows(vectors[~away], np.unique(targets[~away], return_inverse=True)[1], vectors[away])
    looked = None if estimate else count or len(hidden)
    found = []
    for way in ways or registry.names("discover"):
        name, settings = registry.spelled("discover", way)
        started, chosen = time.perf_counter(), None
        if tune:
            settings, chosen = tuned_settings(name, rows, settings)
        made = [make_discovery(name, settings).find(rows, looked, seed_of(seed, "discover")) for seed in range(seeds)]
        scored = [group_scores(truth, one.groups) for one in made]
        found.append(FoundBy(way, settings, {score: [one[score] for one in scored] for score in SCORES},
                             [one.count for one in made], time.perf_counter() - started, chosen))  # fmt: skip
        progress.say(f"{way}: accuracy {100 * found[-1].mean('accuracy').value:.1f}")
    found.sort(key=lambda one: -one.mean("accuracy").value)
    counts = {"known": len(rows.known), "novel": len(rows.novel)}
    return DiscoveryResults(task.name, hidden, tuple(n for n in labels if n not in hidden), counts, tuple(found))


def row_vectors(task: Task, base: str | Path | None, asked: str) -> Tensor:
    """The training rows as standardised numbers: those of a table itself, or the vectors of a base."""
    inputs = task.splits["train"].inputs
    if base is None:
        if task.definition.modality != "table":
            raise AllroundError(asked, f"its inputs are of the modality {task.definition.modality}, and no base reads "
                                "them", "give --base")  # fmt: skip
        return read_rows(columns_for(inputs, task.definition, 0), inputs, task.definition)
    torch.manual_seed(0)
    found = plain_vectors(open_encoder(str(base), [task], 0, {}), task.definition, inputs)
    return (found - found.mean(0)) / found.std(0).clamp_min(1e-6)


def _text(one: Interval) -> str:
    ends = "" if one.low is None or one.high is None else f" [{100 * one.low:.1f}, {100 * one.high:.1f}]"
    return f"{100 * one.value:.1f}{ends}"
