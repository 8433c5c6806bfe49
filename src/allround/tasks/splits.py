"""Splits: those that are not given are drawn from train, rows without a target are left out, repeats are noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from allround.tasks.draws import SplitRule, draw
from allround.tasks.kind import Encoded
from allround.tasks.question import Question
from allround.tasks.targets import check_targets, count_labels
from allround.tasks.task import SPLITS, Split, row_key, text_row
from allround.tasks.values import Row, Target


@dataclass(frozen=True)
class Part:
    """Rows of a split while it is made. A target that is None is missing. numbers: of the rows in the table.

    slices, keys: as those of a `Split`.
    """

    inputs: list[Row]
    targets: list[Target | None]
    numbers: list[int]
    slices: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    keys: Sequence[str | float | None] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int]) -> Part:
        """Only these rows, in this order."""
        return Part(
            [self.inputs[i] for i in rows],
            [self.targets[i] for i in rows],
            [self.numbers[i] for i in rows],
            {name: [values[i] for i in rows] for name, values in self.slices.items()},
            [self.keys[i] for i in rows] if self.keys else (),
        )

    def split(self, encoded: Encoded, numbered: bool) -> Split:
        """The finished split. numbered: whether the rows keep their numbers."""
        numbers = np.array(self.numbers, dtype=np.int64) if numbered else None
        return Split(self.inputs, encoded, numbers, self.slices, self.keys)


def finish_splits(
    question: Question, parts: dict[str, Part], wordless: frozenset[int], notes: list[str]
) -> dict[str, Part]:
    """The three splits of a task, without rows that have no target. parts: the splits that were given.

    wordless: numbers of rows that lack words, which another note counts. notes: what the user should know is added.
    """
    parts, drawn = _make_splits(question, parts, notes)
    _leave_out(question, parts, drawn, wordless, notes)
    _note_repeats(parts, notes)
    return parts


def _make_splits(question: Question, given: dict[str, Part], notes: list[str]) -> tuple[dict[str, Part], list[str]]:
    """The three splits, and the names of those that were drawn."""
    parts, rule = dict(given), question.rule or SplitRule()
    if set(parts) == {"train", "validation"}:
        parts["test"] = parts.pop("validation")
    total = len(parts["train"])
    drawn = [split for split in ("validation", "test") if split not in parts]
    if question.rule is not None and not drawn:
        raise question.fail("`split` is set, and all splits are given: nothing is drawn", "leave `split` out")
    for split in reversed(drawn) if rule.time else drawn:  # the latest rows of all are for test
        parts["train"], parts[split] = _draw(question, rule, parts["train"], rule.size(split, total), split)
    if drawn:
        listed = " and ".join(f"{split} ({len(parts[split])})" for split in drawn)
        if set(given) == {"train"}:
            found = "only train was given:"
        elif "test" in given:
            found = "no validation was given:"
        else:
            found = "no test was given: validation serves as test, and"
        if rule.time:
            notes.append(f"{found} the latest of the {total} train rows by '{rule.time}' make {listed}")
        else:
            notes.append(f"{found} a seeded draw of the {total} train rows makes {listed}{rule.words}")
    return parts, drawn


def _draw(question: Question, rule: SplitRule, part: Part, count: int, split: str) -> tuple[Part, Part]:
    """Take about `count` rows out: equal inputs together, and never the last training row of a label.

    For a task of a table the labels play no part: all its tasks must draw the same rows.
    """
    inputs = part.inputs if question.table is None else [text_row(row) for row in part.inputs]
    free = not question.rules.fixed_labels or question.table is not None
    labels: list[set[str]] = [set() if free else set(count_labels([t])) for t in part.targets]
    taken = draw(rule, split, count, [row_key(row) for row in inputs], part.keys, labels)
    if not taken:
        raise question.fail(
            f"no {split} split was given, and none of the {len(inputs)} train rows can be spared for it{rule.words}",
            "give more rows, or the split itself",
        )
    chosen, rest = sorted(taken), [i for i in range(len(inputs)) if i not in taken]
    return part.take(rest), part.take(chosen)


def _leave_out(
    question: Question, parts: dict[str, Part], drawn: list[str], wordless: frozenset[int], notes: list[str]
) -> None:
    """Rows without a target leave their split; of a table also those whose label a draw left train without."""
    for split in SPLITS:
        part = parts[split]
        kept = [i for i, target in enumerate(part.targets) if target is not None]
        gone = sum(t is None and n not in wordless for t, n in zip(part.targets, part.numbers, strict=True))
        if gone:
            notes.append(f"{gone} of {len(part)} {split} rows have no target and are left out")
        _keep(question, parts, split, kept, "has a target", split in drawn)
    rule = question.rule or SplitRule()
    if not drawn or (question.table is None and not (rule.by or rule.time)):
        return
    seen = set(count_labels(parts["train"].targets)) if question.rules.fixed_labels else set()
    for split in ("validation", "test") if question.rules.fixed_labels else ():
        part = parts[split]
        kept = [i for i, target in enumerate(part.targets) if seen.issuperset(count_labels([target]))]
        if len(kept) < len(part):
            notes.append(
                f"{len(part) - len(kept)} of {len(part)} {split} rows have labels that no train row has after the "
                f"draw, and are left out"
            )
        _keep(question, parts, split, kept, "has a label that train has", split in drawn)
    check_targets(question, {split: part.targets for split, part in parts.items()})


def _keep(question: Question, parts: dict[str, Part], split: str, rows: list[int], has: str, drawn: bool) -> None:
    if not rows:
        raise question.fail(
            f"none of the {len(parts[split])} rows {'drawn for' if drawn else 'of'} {split} {has}",
            f"give {split} {'as a separate split, with rows that have one' if drawn else 'rows that have one'}",
        )
    if len(rows) < len(parts[split]):
        parts[split] = parts[split].take(rows)


def _note_repeats(parts: dict[str, Part], notes: list[str]) -> None:
    keys = {split: [row_key(row) for row in parts[split].inputs] for split in SPLITS}
    for first, second in (("test", "train"), ("validation", "train"), ("test", "validation")):
        seen = set(keys[second])
        count = sum(key in seen for key in keys[first])
        if count:
            notes.append(f"{count} of {len(keys[first])} {first} rows are also in {second}")
