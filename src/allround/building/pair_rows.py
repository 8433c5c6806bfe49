"""Pairs of texts without labels, from a file, from a task whose labels are left out, or from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from allround.building.unlabelled import read_unlabelled
from allround.core.errors import AllroundError, suggestion
from allround.core.seeds import seed_of
from allround.core.words import listed, plural
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.sources.stream import FORMATS, read_windows
from allround.tasks.suite import Suite, as_suite
from allround.tasks.task import Split, Task, row_key
from allround.tasks.values import Row

#: What pairs come from: a suite with a task of pairs, its file or name; a file of pairs; or the pairs.
Pairs = Suite | str | Path | Sequence[Row]
#: Pairs that are needed at least, and of these held back.
LEAST, LEAST_HELD = 10, 2
#: The name of the task where none is given, and of its columns.
NAME, COLUMNS = "alike", ("one", "other")


@dataclass(frozen=True)
class PairRows:
    """Pairs to learn from (`train`) and held back (`validation`), with targets of zeros.

    labelled: the task that they came from, if any: its validation rows are those that are held back. files: that they
    were read from. base: that their suite names.
    """

    task: Task
    labelled: Task | None = None
    files: Sequence[Path] = ()
    base: str | None = None


def read_pairs(
    pairs: Pairs, *, task: str | None = None, columns: Sequence[str] | None = None, held: float = 0.1, seed: int = 0
) -> PairRows:
    """The pairs, each once. Training never sees the test rows of a task.

    task: of a suite, which need not be named where there is one of pairs; of a file, a name for the task that is made.
    columns: the two of a file with texts, which need not be named where there are no others. held: the share of a
    file's pairs that is held back.
    Errors: no task of pairs, columns that are not there, too few pairs.
    """
    if isinstance(pairs, (str, Path)) and Path(pairs).suffix.lower() in FORMATS:
        definition = _definition(task or NAME, _columns(pairs, columns))
        return _drawn(definition, read_unlabelled(definition, pairs), held, seed, [Path(pairs)])
    if isinstance(pairs, (Suite, str, Path)):
        if columns:
            raise AllroundError(f"read the columns {listed(list(columns))}", "the pairs come from a suite",
                                "leave columns out; the suite names the columns")  # fmt: skip
        suite = as_suite(pairs)
        return _without_labels(_task_of(suite, task), suite)
    rows = [(str(one), str(other)) for one, other in pairs]
    return _drawn(_definition(task or NAME, tuple(columns or COLUMNS)), rows, held, seed)


def _definition(name: str, inputs: Sequence[str]) -> Definition:
    """A score of pairs that is a cosine or a probability, so that it is not standardised."""
    return Definition(name, "similarity", tuple(inputs), "text", "spearman")


def _columns(file: Path | str, columns: Sequence[str] | None) -> Sequence[str]:
    """The two columns of a file. Errors: they are not named, and it has more or fewer."""
    asked = f"read pairs from '{file}'"
    names = list(columns or next(iter(read_windows(file))).names)
    if len(names) != 2:
        raise AllroundError(asked, f"{'there are' if columns is None else 'you name'} {plural(len(names), 'column')}: "
                            f"{listed(names)}", "name the two of the texts: --columns one,other")  # fmt: skip
    return names


def _drawn(definition: Definition, rows: Sequence[Row], held: float, seed: int, files: Sequence[Path] = ()) -> PairRows:
    """Pairs of which a share is drawn and held back."""
    if not 0 < held < 1:
        raise AllroundError(f"hold back {held:g} of the pairs", "that is no share of them", "give such as 0.1")
    rows = list({row_key(row): row for row in rows}.values())
    _check_enough(len(rows))
    order = np.random.default_rng(seed_of(seed, "held")).permutation(len(rows)).tolist()
    count = max(LEAST_HELD, round(held * len(rows)))
    return PairRows(_task(definition, [rows[i] for i in order[count:]], [rows[i] for i in order[:count]]), files=files)


def _without_labels(task: Task, suite: Suite) -> PairRows:
    held = task.splits["validation"].inputs
    known = {row_key(row) for row in held}
    train = list({row_key(row): row for row in task.splits["train"].inputs if row_key(row) not in known}.values())
    _check_enough(len(train))
    if len(held) < LEAST_HELD:
        raise AllroundError(f"learn from the pairs of '{task.name}'", f"it has {plural(len(held), 'validation row')}",
                            f"give it {LEAST_HELD} or more")  # fmt: skip
    given = task.definition
    definition = replace(
        _definition(task.name, given.inputs), instruction=given.instruction, rewordings=given.rewordings
    )
    # Scored as the models answer: by rank correlation.
    scored = replace(task, definition=replace(task.definition, kind="similarity", metric="spearman", head="", agree=""))
    return PairRows(_task(definition, train, held), scored.as_defined(definition), suite.files, suite.base)


def _task(definition: Definition, train: Sequence[Row], held: Sequence[Row]) -> Task:
    splits = {name: Split(list(rows), np.zeros(len(rows))) for name, rows in
              (("train", train), ("validation", held), ("test", []))}  # fmt: skip
    return Task(definition, splits)


def _check_enough(count: int) -> None:
    if count < LEAST:
        raise AllroundError("learn from pairs without labels", f"there are {count} different ones",
                            f"give {LEAST} or more; hundreds are needed to learn anything")  # fmt: skip


def _task_of(suite: Suite, name: str | None) -> Task:
    """The task that is named, or the suite's only one with a number for pairs of texts."""
    found = {task.name: task for task in suite if task.definition.pair and kind(task.definition.kind).numeric}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None or name not in found:
        raise AllroundError(
            f"learn from the pairs of {'a task' if name is None else repr(name)} of '{suite.name}'",
            f"it has {plural(len(found), 'task')} of two texts and a number"
            + (f": {listed(list(found))}" if found else ""),
            "name one" if name is None and found else suggestion(name or "", found) if found
            else "give a file of the pairs, without labels, or a task of the kind similarity with two columns of texts",
        )  # fmt: skip
    return found[name]
