"""Checks of rows: how many there are, which are repeated, and which say nothing."""

from __future__ import annotations

import math
from collections import defaultdict

from allround.core.words import listed as and_listed
from allround.tasks.checks.finding import Finding, Targets, has_labels, listed
from allround.tasks.task import SPLITS, Task, row_key

#: Repeated rows are worth saying from this part of a split on.
WORTH = 0.01
#: Fewer test rows leave a score open by more than about eight points either way.
TEST = 100


def check_size(task: Task, *, folds: bool = False) -> list[Finding]:
    """Whether the test rows are enough to tell models apart. folds: every row is one."""
    rows = sum(map(len, task.splits.values())) if folds else len(task.splits["test"])
    if rows >= TEST:
        return []
    once = "give more test rows (`split: {test: 0.3}`), or test every row once: `--folds 5`"
    do = "give more rows" if folds else once
    if not has_labels(task.definition):
        return [Finding("few_test_rows", f"only {rows} test rows: scores will have wide intervals", do)]
    wide = 100 * 1.96 * math.sqrt(0.8 * 0.2 / rows)
    words = f"only {rows} test rows: a score of 80% has an interval of about {wide:.0f} points either way"
    return [Finding("few_test_rows", words, do)]


def check_repeats(task: Task, targets: Targets) -> list[Finding]:
    """Rows that stand several times in a split, and equal inputs with different targets. Rows that stand in several
    splits are a note of the task."""
    found: list[Finding] = []
    answers: dict[object, set[str]] = defaultdict(set)
    repeated: list[str] = []
    for split in SPLITS:
        keys = [row_key(row) for row in task.splits[split].inputs]
        if len(keys) - len(set(keys)) >= WORTH * len(keys):
            repeated.append(f"{len(keys) - len(set(keys))} of {len(keys)} {split} rows")
        for key, target in zip(keys, targets[split], strict=True):
            answers[key].add(repr(target))
    if repeated:
        words = f"{and_listed(repeated)} repeat the input of another row of their split"
        found.append(Finding("repeated_rows", words, "leave repeats out where they are mistakes"))
    torn = [key for key, known in answers.items() if len(known) > 1]
    if torn and has_labels(task.definition):
        first = torn[0][0] if isinstance(torn[0], tuple) and len(torn[0]) == 1 else torn[0]
        shown = f"such as {listed([first])} with {listed(sorted(answers[torn[0]]))}".replace('"', "")
        have = "input has" if len(torn) == 1 else "inputs have"
        words = f"{len(torn)} {have} different targets in different rows, {shown}"
        found.append(Finding("torn_targets", words, "no model can be right about both: decide for one"))
    return found


def check_texts(task: Task, targets: Targets) -> list[Finding]:
    """Texts that are blank, and texts that name their own label."""
    found: list[Finding] = []
    if task.definition.modality != "text":
        return found
    blank = total = 0
    for split in SPLITS:
        for row in task.splits[split].inputs:
            total += 1
            blank += not all(
                " ".join(value).strip() if isinstance(value, list) else str(value).strip() for value in row
            )
    if blank:
        words = f"{blank} of {total} rows {'has' if blank == 1 else 'have'} a blank text"
        found.append(Finding("blank_texts", words, "fill them in, or leave them out: `missing: drop`"))
    pairs = list(zip(task.splits["train"].inputs, targets["train"], strict=True))
    named = [label.casefold() in " ".join(map(str, row)).casefold() for row, label in pairs if isinstance(label, str)]
    least = min((len(label) for label in task.definition.labels), default=0)
    if named and least >= 3 and sum(named) >= 0.9 * len(named):
        words = f"{100 * sum(named) / len(named):.0f}% of the train texts hold the name of their label"
        found.append(Finding("given_away", words, "take it out of the texts, unless it stands there in use too"))
    return found
