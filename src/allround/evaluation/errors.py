"""What a system gets wrong in a task: confusions, scores of labels, the worst answers, scores of parts of the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from allround.core.schema import STRICT
from allround.evaluation.intervals import Bootstrap
from allround.evaluation.predictions import Predictions
from allround.evaluation.ranked import first_right
from allround.models.batch import taken
from allround.tasks.choices import in_words
from allround.tasks.kind import kind
from allround.tasks.metric import row_scores
from allround.tasks.passages import Passages
from allround.tasks.prompt import shown
from allround.tasks.task import Split, Task
from allround.tasks.values import Row, Target

#: Wrong answers that are listed, and values of a slice that are scored, the most frequent ones.
MOST, MOST_VALUES = 20, 30
#: Right answers that are shown beside the wrong ones, where answers are texts.
MOST_RIGHT = 5
#: A score from which on an answer is right.
_BEST = 1 - 1e-9
#: Passages of a ranking, or relevant ones, that are shown.
MOST_PASSAGES = 10
#: Letters of a text that are shown.
SHOWN = 300
#: The slice that every task of texts has: thirds of the rows by their length.
LENGTH = "length"


@dataclass(frozen=True)
class Mistake:
    """An answer, mostly a wrong one. row: its number in the split. confidence: the probability that the system gave to
    it; of numbers, None. error: of numbers, how far off it is. length: words of the input; None where it has none.
    score: of texts, what the task's metric says of this row alone."""

    __pydantic_config__ = STRICT

    row: int
    text: str
    target: str
    answer: str
    confidence: float | None
    error: float | None
    length: int | None
    score: float | None = None


@dataclass(frozen=True)
class LabelScores:
    """How a label is answered; support: how often it is the target. None: undefined, as it is never answered, or never
    the target."""

    __pydantic_config__ = STRICT

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class SliceScore:
    """The task's metric on a part of the rows, with its 95% interval. value: None stands for rows without one."""

    __pydantic_config__ = STRICT

    column: str
    value: str | None
    rows: int
    score: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TaskErrors:
    """What a system gets wrong in a task.

    labels, confusion: how often label i (row) is answered as label j (column); words count where tags are per word;
    empty for numbers, and where a row may have several labels. per_label: empty for numbers. wrong: how many answers
    are not right, of numbers all, of texts those that the metric does not give its best score, of ranked passages those
    whose first one is not relevant. worst: the wrong answers that the system is surest of, the largest errors, or the
    answers with the lowest scores. right: of texts and ranked passages, some answers with the highest scores.
    """

    __pydantic_config__ = STRICT

    metric: str
    rows: int
    wrong: int
    labels: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    per_label: tuple[LabelScores, ...] = ()
    worst: tuple[Mistake, ...] = ()
    slices: tuple[SliceScore, ...] = field(default=())
    right: tuple[Mistake, ...] = ()


def errors_of(task: Task, predictions: Predictions, *, seed: int = 0, resamples: int = 1000) -> TaskErrors:
    """What predictions of a split of a task get wrong."""
    rules, split = kind(predictions.definition.kind), task.splits[predictions.split]
    confusion: tuple[tuple[int, ...], ...] = ()
    per_label: tuple[LabelScores, ...] = ()
    if rules.labelled:
        counts = _counts(predictions)
        per_label = _per_label(predictions, counts)
        if counts is not None:
            confusion = tuple(tuple(int(n) for n in row) for row in counts)
    order, wrong, right = _order(predictions)
    return TaskErrors(
        predictions.definition.metric,
        len(predictions),
        wrong,
        predictions.definition.labels if confusion else (),
        confusion,
        per_label,
        tuple(_mistakes(predictions, split, order[:MOST])),
        tuple(_slices(predictions, split, seed, resamples)),
        tuple(_mistakes(predictions, split, right[:MOST_RIGHT])),
    )


def _counts(predictions: Predictions) -> np.ndarray | None:
    """How often each label is answered as each (labels, labels); None where a row may have several."""
    targets, said = predictions.targets, predictions.predictions
    if isinstance(targets, list):
        targets, said = (np.array(list(chain.from_iterable(one)), dtype=np.int64) for one in (targets, said))
    if np.ndim(targets) == 2:
        return None
    k = len(predictions.definition.labels)
    return np.bincount(np.asarray(targets) * k + np.asarray(said), minlength=k * k).reshape(k, k)


def _per_label(predictions: Predictions, counts: np.ndarray | None) -> tuple[LabelScores, ...]:
    if counts is not None:
        right, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    else:
        on, given = (np.asarray(one) == 1 for one in (predictions.targets, predictions.predictions))
        right, true, said = (on & given).sum(0), on.sum(0), given.sum(0)
    columns = zip(predictions.definition.labels, right.tolist(), true.tolist(), said.tolist(), strict=True)
    return tuple(LabelScores(n, _share(r, s), _share(r, t), _share(2 * r, s + t), t) for n, r, t, s in columns)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _order(predictions: Predictions) -> tuple[list[int], int, list[int]]:
    """The rows with a wrong answer, the worst first, and how many there are; of texts the rows with a right one."""
    targets, said = predictions.targets, predictions.predictions
    if kind(predictions.definition.kind).ranked:
        scores, first = row_scores(predictions.definition, targets, said), first_right(targets, said)
        order, near = np.argsort(scores, kind="stable"), np.argsort(-scores, kind="stable")
        return [int(r) for r in order if not first[r]], int((~first).sum()), [int(r) for r in near if first[r]]
    if kind(predictions.definition.kind).written:
        scores = row_scores(predictions.definition, targets, said)
        same = np.array([answer in accepted for accepted, (answer,) in zip(targets, said, strict=True)], dtype=bool)
        order, missed = np.argsort(scores, kind="stable"), (scores < _BEST) & ~same  # short ones are nothing to bleu
        near = np.argsort(-scores, kind="stable")[: int((scores > 0).sum())]
        right = near if missed.all() else np.flatnonzero(~missed)
        return [int(row) for row in order if missed[row]], int(missed.sum()), [int(row) for row in right]
    if kind(predictions.definition.kind).numeric:
        error = np.abs(np.asarray(targets) - np.asarray(said))
        return [int(row) for row in np.argsort(-error, kind="stable")], int((error > 0).sum()), []
    wrong = [row for row, (t, p) in enumerate(zip(targets, said, strict=True)) if not np.array_equal(t, p)]
    sure = predictions.confidence
    return wrong if sure is None else sorted(wrong, key=lambda row: -sure[row]), len(wrong), []


def _mistakes(predictions: Predictions, split: Split, rows: Sequence[int]) -> Iterable[Mistake]:
    if not rows:
        return
    definition, rules = predictions.definition, kind(predictions.definition.kind)
    targets, answers = (
        rules.decode(taken(values, rows), definition) for values in (predictions.targets, predictions.predictions)
    )
    scores: Sequence[float | None] = [None] * len(rows)
    if rules.written or rules.ranked:
        both = (taken(values, rows) for values in (predictions.targets, predictions.predictions))
        scores = row_scores(definition, *both).tolist()
    for row, target, answer, score in zip(rows, targets, answers, scores, strict=True):
        error = abs(float(target) - float(answer)) if rules.numeric else None  # type: ignore[arg-type]
        sure = None if predictions.confidence is None else float(predictions.confidence[row])
        text = text_of(split.inputs[row], definition.inputs, definition.modality)
        between = " / " if rules.written or rules.ranked else " "
        target, answer = (in_words(definition, split.inputs[row], one) for one in (target, answer))
        if rules.ranked:
            target, answer = (_highest(one) for one in (target, answer))
        length = length_of(split.inputs[row], definition.modality)
        yield Mistake(row, text, _words(target, between), _words(answer, between), sure, error, length, score)


def _words(target: Target, between: str) -> str:
    if isinstance(target, dict):  # passages by their grades
        target = [one if grade == 1 else f"{one} ({grade:g})" for one, grade in target.items() if grade > 0]
    if isinstance(target, list):
        return between.join(map(str, target))
    return f"{target:.6g}" if isinstance(target, float) else str(target)


def _highest(passages: Target) -> Target:
    """The first passages of a ranking, or of those that are relevant."""
    if isinstance(passages, dict):
        return dict(list(passages.items())[:MOST_PASSAGES])
    return passages[:MOST_PASSAGES] if isinstance(passages, list) else passages


def text_of(row: Row, columns: Sequence[str], modality: str) -> str:
    """An input as it is shown: a text, the two texts of a pair, a query, the cells of a table; of an image its column.

    >>> text_of((1.5, "red"), ("size", "colour"), "table")
    'size: 1.5, colour: red'
    """
    if modality == "image":
        found = ", ".join(columns)
    elif modality in ("table", "fields"):
        found = ", ".join(f"{name}: {_cell(value)}" for name, value in zip(columns, row, strict=True))
    else:
        texts = [part for part in row if not isinstance(part, Passages)]
        found = " | ".join(" ".join(map(str, part)) if isinstance(part, list) else str(part) for part in texts)
    return found if len(found) <= SHOWN else found[: SHOWN - 3] + "..."


def _cell(value: object) -> str:
    if isinstance(value, list):
        return shown(value).replace("\n", " ")
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def length_of(row: Row, modality: str) -> int | None:
    """How many words an input of text has.

    >>> length_of(("two words", "and three more"), "text")
    5
    """
    if modality != "text":
        return None
    texts = [part for part in row if isinstance(part, str | list)]
    return sum(len(part) if isinstance(part, list) else len(part.split()) for part in texts)


def _slices(predictions: Predictions, split: Split, seed: int, resamples: int) -> Iterable[SliceScore]:
    columns: dict[str, list[str | None]] = {name: list(values) for name, values in split.slices.items()}
    lengths = [length_of(row, predictions.definition.modality) for row in split.inputs]
    known = [length for length in lengths if length is not None]
    if len(known) == len(lengths) and len(set(known)) > 2 and LENGTH not in columns:
        columns[LENGTH] = _thirds(known)
    for column, values in columns.items():
        groups: dict[str | None, list[int]] = {}
        for row, value in enumerate(values):
            groups.setdefault(value, []).append(row)
        frequent = sorted(groups, key=lambda value: -len(groups[value]))[:MOST_VALUES]
        for value in sorted(frequent, key=lambda value: groups[value][0] if column != LENGTH else _first(value)):
            part = _part(predictions, groups[value])
            found = Bootstrap.make({("", ""): part}, seed=seed, resamples=resamples).score("", "")
            yield SliceScore(column, value, len(part), *found)


def _thirds(lengths: Sequence[int]) -> list[str | None]:
    """The third that each length belongs to, in words."""
    first, second = (math.floor(end) for end in np.quantile(lengths, [1 / 3, 2 / 3]))
    second = max(second, first + 1)
    names = f"up to {first} words", f"{first + 1} to {second} words", f"{second + 1} words and more"
    return [names[(length > first) + (length > second)] for length in lengths]


def _first(value: str | None) -> int:
    """The first number of a third's name, so that thirds stand in their order."""
    words = (value or "").split()
    return 0 if words[:1] == ["up"] else int(words[0]) if words else -1


def _part(predictions: Predictions, rows: Sequence[int]) -> Predictions:
    """Only these rows."""
    return replace(
        predictions,
        targets=taken(predictions.targets, rows),
        predictions=taken(predictions.predictions, rows),
        confidence=None if predictions.confidence is None else [predictions.confidence[row] for row in rows],
        scores=None if predictions.scores is None else taken(predictions.scores, rows),
    )
