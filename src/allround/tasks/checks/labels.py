"""Checks of labels: rare ones, those that look alike, and those that all but make up the rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from allround.tasks.checks.finding import Finding, Targets, listed
from allround.tasks.targets import count_labels
from allround.tasks.task import SPLITS

#: A label with fewer rows is rare.
FEW = 10
#: A label that so large a part of the training rows have makes accuracy tell little.
MOST = 0.8


def label_counts(targets: Targets) -> dict[str, Counter[str]]:
    """How often each label occurs in each split."""
    return {split: count_labels(targets[split]) for split in SPLITS}


#: The code of labels that no test row has.
NOT_TESTED = "labels_not_tested"


def check_labels(counts: Mapping[str, Counter[str]], rows: int, *, rare: bool = True) -> list[Finding]:
    """What is worth knowing about the labels of a task. rows: of train; 0 where a row may have several. rare: whether
    rare ones are worth it."""
    total = sum(counts.values(), Counter())
    return [*(_rare(counts, total) if rare else ()), *_alike(total), *_common(counts["train"], rows)]


def _rare(counts: Mapping[str, Counter[str]], total: Counter[str]) -> list[Finding]:
    found: list[Finding] = []
    rare = sorted((label for label in total if total[label] < FEW), key=lambda label: (total[label], label))
    if rare:
        shown = [f"'{label}' ({', '.join(f'{s} {counts[s][label]}' for s in SPLITS)})" for label in rare[:4]]
        more = f" and {len(rare) - 4} more" if len(rare) > 4 else ""
        words = f"{_labels(len(rare))} fewer than {FEW} rows: {', '.join(shown)}{more}"
        found.append(Finding("rare_labels", words, "give more rows of them, or join them with another label"))
    unseen = sorted(label for label in total if not counts["test"][label])
    if unseen:
        do = "say `split: {stratify: TARGET}`, or give test rows of them" if set(unseen) - set(rare) else ""
        found.append(Finding(NOT_TESTED, f"{_labels(len(unseen))} no test row: {listed(unseen)}", do))
    return found


def _labels(count: int) -> str:
    return "1 label has" if count == 1 else f"{count} labels have"


def _alike(total: Counter[str]) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(total):
        groups[" ".join(label.split()).casefold()].append(label)
    found = []
    for same in groups.values():
        if len(same) > 1:
            shown = ", ".join(f"{label!r} ({total[label]})" for label in same)
            keep = max(same, key=lambda label: total[label])
            others = ", ".join(f"{one!r}: {keep!r}" for one in same if one != keep)
            do = f"write them alike in the data, or map them under `labels` ({others}; it then names every label)"
            found.append(Finding("labels_alike", f"labels differ by case or spaces alone: {shown}", do))
    return found


def _common(train: Counter[str], rows: int) -> list[Finding]:
    if len(train) < 2 or not rows:
        return []
    (label, count), least = train.most_common(1)[0], min(train.values())
    if count / rows < MOST and count < 20 * least:
        return []
    words = f"{100 * count / rows:.0f}% of the train rows are {label!r}, and the rarest label has {least}"
    do = f"always answering {label!r} is right that often: look at macro_f1 or balanced_accuracy"
    return [Finding("imbalance", words, do)]
