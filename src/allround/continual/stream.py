"""A stream: tasks, or parts of one task, that come one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from PIL.Image import Image, fromarray

from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.core.words import listed
from allround.tasks.task import Split, Task

#: What is known of a row at test time: the task that it belongs to; nothing, as all arrivals have the same labels;
#: nothing, and each arrival brings labels of its own; nothing, and a learner is not told either where an arrival ends.
Scenario = Literal["task", "domain", "class", "free"]
SCENARIOS: tuple[Scenario, ...] = ("task", "domain", "class", "free")
#: Pieces in which an arrival comes where its end is not told.
PIECES = 4


@dataclass(frozen=True)
class Arrival:
    """What comes at once: the rows of one task, or of several.

    Tasks of one name in several arrivals are one task, and share a head. Labels may be such as earlier arrivals lack.
    """

    name: str
    tasks: tuple[Task, ...]

    def pieces(self, count: int, first: int = 0) -> list[Arrival]:
        """The arrival as several: each `count`-th training row, and all validation rows; named by numbers alone, so
        that nothing tells where an arrival ends. first: the number of the first one.

        >>> from allround.tasks.make import make_task
        >>> letters = make_task("letters", kind="classification", inputs="x", target="y",
        ...                     data={s: [{"x": i, "y": "ab"[i % 2]} for i in range(n)]
        ...                           for s, n in (("train", 24), ("validation", 8), ("test", 8))})
        >>> [(one.name, len(one.tasks[0].splits["train"])) for one in Arrival("ab", (letters,)).pieces(3, 6)]
        [('piece 6', 8), ('piece 7', 8), ('piece 8', 8)]
        """
        made = []
        for piece in range(count):
            tasks = []
            for task in self.tasks:
                rows = task.splits["train"].take(range(piece, len(task.splits["train"]), count))
                tasks.append(replace(task, splits={**task.splits, "train": rows}, table=None))
            made.append(Arrival(f"piece {first + piece}", tuple(tasks)))
        return made


@dataclass(frozen=True)
class Stream:
    """Arrivals in their order.

    >>> from allround.tasks.make import make_task
    >>> rows = [{"x": i, "y": "abcd"[i % 4]} for i in range(40)]
    >>> letters = make_task("letters", kind="classification", inputs="x", target="y", data={"train": rows})
    >>> [one.name for one in split_labels(letters, 2, "class").arrivals]
    ['a, b', 'c, d']
    """

    name: str
    scenario: Scenario
    arrivals: tuple[Arrival, ...]

    def ordered(self, seed: int) -> Stream:
        """The same arrivals in the order that a seed draws. Seed 0 leaves the order as it is."""
        if seed == 0:
            return self
        order = np.random.default_rng(seed_of(seed, "order", self.name)).permutation(len(self.arrivals))
        return replace(self, arrivals=tuple(self.arrivals[place] for place in order))


def of_tasks(name: str, tasks: Sequence[Task]) -> Stream:
    """A stream with an arrival for each task. Errors: fewer than two tasks."""
    _check_two(name, len(tasks), "task")
    return Stream(name, "task", tuple(Arrival(task.name, (task,)) for task in tasks))


def split_labels(task: Task, per: int, scenario: Scenario, *, order: int = 0) -> Stream:
    """A stream with an arrival for every `per` labels of a task, as van de Ven and Tolias split MNIST
    (arXiv:1904.07734).

    class: the task is one, and its labels grow. task: each arrival is a task of its own, with `per` labels. domain: the
    task is one, and asks which of an arrival's labels it is, by number: the first, the second and so on. free: the task
    is one, and all its labels are known from the start, so that they do not tell where an arrival ends.
    order: a seed that draws which labels come together; 0 takes them in the task's order.

    Errors: a task whose rows have no single label; labels that cannot be split evenly; fewer than two arrivals.
    """
    asked = f"split the labels of '{task.name}' into arrivals of {per}"
    labels = list(task.definition.labels)
    if task.definition.kind != "classification":
        raise AllroundError(asked, f"it is a task of the kind {task.definition.kind}", "give a classification task")
    if per < 1 or len(labels) % per or (per < 2 and scenario != "class"):
        least = 1 if scenario == "class" else 2
        fine = [n for n in range(least, len(labels)) if len(labels) % n == 0]
        raise AllroundError(
            asked, f"it has {len(labels)} labels", f"give a number that divides them: {listed([str(n) for n in fine])}"
        )
    if order:
        labels = [
            labels[n] for n in np.random.default_rng(seed_of(order, "labels", task.name)).permutation(len(labels))
        ]
    groups = [labels[start : start + per] for start in range(0, len(labels), per)]
    _check_two(task.name, len(groups), "group of labels")
    arrivals = []
    for group in groups:
        part = of_labels(task, group)
        if scenario == "task":
            part = renamed(part, f"{task.name}_{'_'.join(group)}")
        elif scenario == "domain":
            part = replace(part, definition=replace(part.definition, labels=tuple(map(str, range(per)))))
        elif scenario == "free":
            part = part.as_defined(task.definition)
        arrivals.append(Arrival(", ".join(group), (part,)))
    return Stream(f"{task.name} by labels", scenario, tuple(arrivals))


def of_labels(task: Task, labels: Sequence[str]) -> Task:
    """The rows of a task that have one of some labels; the task has no others."""
    old = {task.definition.labels.index(label): place for place, label in enumerate(labels)}
    splits = {}
    for name, split in task.splits.items():
        kept = split.take([row for row, target in enumerate(split.targets) if int(target) in old])
        targets = np.array([old[int(target)] for target in kept.targets], dtype=np.int64)
        splits[name] = replace(kept, targets=targets)
    weights = tuple(task.definition.weights[0][place] for place in old) if task.definition.weights else ()
    definition = replace(task.definition, labels=tuple(labels), weights=(weights,) if weights else ())
    return replace(task, definition=definition, splits=splits, table=None)


def renamed(task: Task, name: str) -> Task:
    """The same task under another name."""
    return replace(task, definition=replace(task.definition, name=name))


def permuted(task: Task, arrivals: int, seed: int = 0, scenario: Scenario = "domain") -> Stream:
    """A stream of the same task on images whose pixels are shuffled, by an order of its own in each arrival but the
    first (Goodfellow et al., arXiv:1312.6211). Errors: other inputs than images."""

    def shuffle(image: Image, number: int) -> Image:
        pixels = np.asarray(image)
        flat = pixels.reshape(-1, *pixels.shape[2:])
        order = np.random.default_rng(seed_of(seed, "pixels", number)).permutation(len(flat))
        return fromarray(flat[order].reshape(pixels.shape)) if number else image

    return _images_changed(task, arrivals, "permuted", shuffle, scenario)


def rotated(task: Task, arrivals: int, degrees: float = 180.0, scenario: Scenario = "domain") -> Stream:
    """A stream of the same task on images that are turned, evenly from 0 to below `degrees`. Errors: as `permuted`."""

    def turn(image: Image, number: int) -> Image:
        return image.rotate(number * degrees / arrivals)

    return _images_changed(task, arrivals, "rotated", turn, scenario)


def _images_changed(
    task: Task, arrivals: int, word: str, change: Callable[[Image, int], Image], scenario: Scenario
) -> Stream:
    if task.definition.modality != "image":
        raise AllroundError(
            f"make a stream of {word} images of '{task.name}'",
            f"its inputs are of the modality {task.definition.modality}",
            "give a task on images",
        )
    _check_two(task.name, arrivals, "arrival")

    def changed(split: Split, number: int) -> Split:
        return replace(split, inputs=[(change(cast(Image, row[0]), number),) for row in split.inputs])

    made = [replace(task, table=None, splits={s: changed(rows, n) for s, rows in task.splits.items()})
            for n in range(arrivals)]  # fmt: skip
    return Stream(f"{task.name}, {word}", scenario, tuple(Arrival(f"{word} {n}", (one,)) for n, one in enumerate(made)))


def _check_two(name: str, count: int, what: str) -> None:
    if count < 2:
        raise AllroundError(f"make a stream of '{name}'", f"there is only {count} {what}", "a stream takes two or more")
