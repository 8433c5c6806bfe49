"""choices: whether a system knows the answer to a question, or the question as it was published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.evaluation.flips import right_rows
from allround.evaluation.measuring import Measured, MeasureView, mean_of
from allround.tasks.choices import labels_of
from allround.tasks.task import Split, Task
from allround.tasks.values import Row

#: What takes the place of a choice.
NONE = "None of the other choices"


@method(
    source="Zhao et al., 2024, arXiv:2412.15194, the three rules of decontamination",
    paper="MMLU-CF: A Contamination-free Multi-task Language Understanding Benchmark",
)
def choices(
    view: MeasureView, *, none: float = 0.5, seed: int = 0, task: str = "", rephrased: str = ""
) -> Sequence[Measured]:
    """Ask each multiple-choice task again, with its choices in another order, and with one of them, drawn at random,
    replaced by "None of the other choices" in the share `none` of the rows; targets follow.

    task, rephrased: instead, two tasks with the same rows, the second in other words, which somebody wrote.
    Formula: the share of right answers to the altered rows less that to the rows as they are, paired by row. Well below
    0: the rows may have been learned by heart.
    Differs: the paper makes a benchmark in this way, and takes the gap between its open and its closed half for a sign
    of a leak; here a benchmark at hand is altered and compared with itself.
    Errors: no multiple-choice task; answers from files.
    """
    asked = "measure how far multiple choice depends on its form"
    found = []
    if rephrased:
        one, other = (view.of(name, asked) for name in (task, rephrased))
        if len(one) != len(other):
            raise AllroundError(asked, f"'{task}' and '{rephrased}' have {len(one)} and {len(other)} rows",
                                "give the same rows twice, in other words")  # fmt: skip
        found.append(_changed(f"{task} in other words", task, right_rows(one), right_rows(other)))
    kinds = {name: made.definition.kind for name, made in view.predictions.items()}
    names = [] if rephrased else [name for name, kind in kinds.items() if kind == "multiple_choice"]
    if not names and not rephrased:
        raise AllroundError(asked, "there is no multiple-choice task", "give a task of the kind multiple_choice")
    for name in names:
        answer, before = view.answering(asked), right_rows(view.predictions[name])
        own = view.tasks[name]
        for what, altered in (("choices in another order", shuffled(own, view.split, seed)),
                              (f"'{NONE}'", with_none(own, view.split, none, seed))):  # fmt: skip
            found.append(_changed(f"{name} with {what}", name, before, right_rows(answer(altered))))
    return found


def shuffled(task: Task, split: str, seed: int) -> Task:
    """A task whose rows have their choices in another order, drawn for each row; targets follow."""
    place, rows, targets = _options(task), [], []
    generator = np.random.default_rng(seed_of(seed, "choices", task.name))
    for row, target in zip(task.splits[split].inputs, np.asarray(task.splits[split].targets).tolist(), strict=True):
        texts = labels_of(task.definition, row)
        order = generator.permutation(len(texts)).tolist()
        rows.append(_with(row, place, [texts[old] for old in order]))
        targets.append(order.index(target))
    return _altered(task, split, rows, targets)


def with_none(task: Task, split: str, share: float, seed: int) -> Task:
    """A task in which one choice, drawn at random, of a share of the rows says that none of the others is right; if it
    was the right one, that is now true, so that targets stay."""
    place, rows = _options(task), []
    generator = np.random.default_rng(seed_of(seed, "none", task.name))
    for row in task.splits[split].inputs:
        texts = list(labels_of(task.definition, row))
        drawn = int(generator.integers(len(texts)))
        if generator.random() < share:
            texts[drawn] = NONE
        rows.append(_with(row, place, texts))
    return _altered(task, split, rows, np.asarray(task.splits[split].targets).tolist())


def _options(task: Task) -> int:
    prompt = task.definition.prompt
    assert prompt is not None and prompt.options, "a multiple-choice task has a column of choices"
    return task.definition.inputs.index(prompt.options)


def _with(row: Row, place: int, value: list[str]) -> Row:
    return (*row[:place], value, *row[place + 1 :])


def _altered(task: Task, split: str, rows: Sequence[Row], targets: Sequence[int]) -> Task:
    made = Split(list(rows), np.array(targets, dtype=np.int64))
    return replace(task, splits={**task.splits, split: made}, table=None)


def _changed(name: str, task: str, before: np.ndarray, after: np.ndarray) -> Measured:
    return mean_of(f"change of accuracy of {name}", task, after.astype(np.float64) - before)
