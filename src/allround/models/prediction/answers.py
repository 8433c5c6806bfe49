"""The answers to windows of rows: those of all tasks, row by row, and why a row has none."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from allround.core.errors import AllroundError
from allround.core.words import plural
from allround.models.batch import Answers
from allround.models.calibration import sets_of
from allround.models.prediction.answerer import Answerer, Asking, TaskFound, own_inputs
from allround.models.prediction.cells import Inputs, read_inputs
from allround.tasks.choices import in_words, labels_of
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.sources.stream import Window
from allround.tasks.values import Row, Target

#: The probabilities of labels, the most probable first; for tasks per word one for each word.
Ranked = dict[str, float] | list[dict[str, float]]


@dataclass
class TaskAnswers:
    """A task's answers to a window, one a row; None where there is none. scores: where they are asked for and the
    kind has labels. sets: where they are asked for and the system has them for the task. labels: of each row, where
    rows have choices of their own."""

    definition: Definition
    predictions: list[Target | None]
    confidence: list[float | None]
    scores: list[Ranked | None] | None = None
    sets: list[list[str] | tuple[float, float] | None] | None = None
    labels: list[Sequence[str] | None] | None = None

    def labels_of(self, place: int) -> Sequence[str]:
        """The labels of the row at a place."""
        own = None if self.labels is None else self.labels[place]
        return self.definition.labels if own is None else own


@dataclass
class Answered:
    """A window with its answers. notes: why a row has no answer, or what in it is unlike the training rows. found:
    which task each row is of, where the system was asked to tell; only that task's answer is given then."""

    window: Window
    tasks: dict[str, TaskAnswers]
    notes: list[str | None]
    found: list[TaskFound | None] | None = None


@dataclass
class Counts:
    """What came of the rows so far.

    empty, broken: rows that lack an answer of a task; first: the first of them. odd: other rows that hold what the
    training rows hold nothing like; first_odd: the first of them. left_out: tasks without answers, and why.
    """

    rows: int = 0
    empty: int = 0
    broken: int = 0
    first: str = ""
    odd: int = 0
    first_odd: str = ""
    left_out: dict[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """What there is to say of the rows: how many have no answer, and how many are unlike the training rows."""
        found = []
        if self.empty + self.broken:
            parts = [f"{n:,} {what}" for n, what in ((self.empty, "empty"), (self.broken, "broken")) if n]
            lacking = f"{self.empty + self.broken:,} of {plural(self.rows, 'row')}"
            found.append(f"without an answer: {lacking} ({', '.join(parts)}), first {self.first}")
        if self.odd:
            lacking = f"{self.odd:,} of {plural(self.rows, 'row')}"
            found.append(f"unlike the training rows: {lacking}, first {self.first_odd}")
        return found


def answer_windows(
    system: Answerer, windows: Iterable[Window], asking: Asking, source: str, counts: Counts | None = None
) -> Iterator[Answered]:
    """The answers to windows of rows, in their order.

    source: what the rows are from, in messages. counts: is kept up to date.
    Errors: a task that the system or the columns lack; with `asking.strict`, a row that cannot be answered.
    """
    counts = Counts() if counts is None else counts
    chosen: list[str] | None = None
    for window in windows:
        if chosen is None:
            chosen = choose_tasks(system, window, asking, source, counts)
            if asking.sets and not any(has_sets(system, task, asking) for task in chosen):
                raise AllroundError(
                    f"give sets of answers for {source}",
                    "the model was saved without them",
                    "build it with a coverage: allround build ... --coverage 0.9",
                )
        made = _answered(system, chosen, window, asking, source, counts)
        counts.rows += len(window)
        yield made


def choose_tasks(system: Answerer, window: Window, asking: Asking, source: str, counts: Counts) -> list[str]:
    """The tasks that are asked for, or all whose columns are there."""
    lacking = {
        name: [column for column in own_inputs(system, name) if not window.has(column)] for name in system.definitions
    }
    have = ", ".join(window.names)
    if asking.tasks is None:
        counts.left_out = {name: f"there is no column '{gone[0]}'" for name, gone in lacking.items() if gone}
        chosen = [name for name in system.definitions if name not in counts.left_out]
        if not chosen:
            needs = "; ".join(f"'{name}' needs {', '.join(own_inputs(system, name))}" for name in system.definitions)
            raise AllroundError(
                f"answer {source}", f"it has the columns {have}, and no task's own: {needs}", "rename the columns"
            )
        return chosen
    for name in asking.tasks:
        system.definition(name)  # an error for a task that is not there
        if lacking[name]:
            raise AllroundError(
                f"answer task '{name}' for {source}",
                f"it has no column '{lacking[name][0]}'; it has: {have}",
                f"name the columns {', '.join(own_inputs(system, name))}",
            )
    return list(dict.fromkeys(asking.tasks))


def _answered(
    system: Answerer, tasks: Sequence[str], window: Window, asking: Asking, source: str, counts: Counts
) -> Answered:
    reading = Reading(system, tasks, window, asking, source)
    made = [
        system.answer_tasks(part.tasks, part.inputs.rows, batch_size=asking.batch_size, scores=part.scores)
        if part.inputs.rows
        else {}
        for part in reading.parts
    ]
    return reading.answered(made, counts)


@dataclass(frozen=True)
class Part:
    """Rows of a window that some tasks read alike. alike: what tasks of such rows have in common. scores: whether the
    probabilities of labels are needed."""

    tasks: list[str]
    inputs: Inputs
    alike: Hashable
    scores: bool


class Reading:
    """A window as tasks read it: the parts that a system has to answer, and what then comes of their answers."""

    def __init__(self, system: Answerer, tasks: Sequence[str], window: Window, asking: Asking, source: str) -> None:
        """Errors: with `asking.strict`, a row that cannot be answered."""
        self.system, self.tasks, self.window, self.asking = system, tasks, window, asking
        together: dict[Hashable, list[str]] = {}
        for task in tasks:
            d = system.definition(task)
            alike = d.inputs, d.modality, kind(d.kind).per_token, d.columns, id(system.passages.get(task))
            together.setdefault(alike, []).append(task)
        self._read = [
            self._part(own, read_inputs(system.definition(own[0]), window, system.passages.get(own[0])), alike)
            for alike, own in together.items()
        ]
        if asking.strict:
            for part in self._read:
                _check_whole(part.inputs, window, part.tasks, source)
        self._told: list[TaskFound | None] | None = None
        self.parts = self._read
        if asking.find and system.finds_tasks and len(tasks) > 1:
            self._told = _find_tasks(system, self._read, len(window))
            self.parts = [self._part([task], _only(task, part.inputs, self._told), part.alike)
                          for part in self._read for task in part.tasks]  # fmt: skip

    def _part(self, tasks: list[str], inputs: Inputs, alike: Hashable) -> Part:
        scored = any(self.asking.ranked and kind(self.system.definition(task).kind).labelled for task in tasks)
        return Part(tasks, inputs, alike, scored or any(has_sets(self.system, task, self.asking) for task in tasks))

    def answered(self, made: Sequence[Mapping[str, Answers]], counts: Counts | None = None) -> Answered:
        """The window with its answers. made: those of each part, by task; none where it has no rows.

        Errors: scores are wanted, and the system gives none.
        """
        found: dict[str, TaskAnswers] = {}
        for part, answers in zip(self.parts, made, strict=True):
            if part.inputs.rows:
                self._check_scores(part.tasks, answers)
            for task in part.tasks:
                found[task] = _spread(self.system, task, answers.get(task), part.inputs, self.window, self.asking)
        notes = self._notes(Counts() if counts is None else counts)
        return Answered(self.window, {task: found[task] for task in self.tasks}, notes, self._told)

    def _check_scores(self, tasks: Sequence[str], made: Mapping[str, Answers]) -> None:
        for task in tasks:
            wanted = self.asking.ranked and kind(self.system.definition(task).kind).labelled
            if wanted and made[task].scores is None:
                raise AllroundError(
                    f"give the scores of task '{task}'",
                    "the system gives no probabilities of its labels",
                    "leave scores out, or leave the task out",
                )

    def _notes(self, counts: Counts) -> list[str | None]:
        """What there is to say of each row, which is counted."""
        reasons: dict[int, dict[str, list[str]]] = {}
        empty: set[int] = set()
        lacking: set[int] = set()
        for part in self._read:
            read = part.inputs
            empty.update(read.empty)
            lacking.update(read.empty, read.broken)
            for place, reason in {
                **read.empty,
                **read.broken,
                **{p: "; ".join(odd) for p, odd in read.odd.items()},
            }.items():
                reasons.setdefault(place, {}).setdefault(reason, []).extend(part.tasks)
        if self._told is not None:  # what a row lacks for other tasks than its own is nobody's concern
            known = {place for place, one in enumerate(self._told) if one is not None}
            reasons = {place: why for place, why in reasons.items() if place not in known}
            empty, lacking = empty - known, lacking - known
        notes: list[str | None] = [None] * len(self.window)
        for place, by_reason in sorted(reasons.items()):
            some = any(len(named) < len(self.tasks) for named in by_reason.values())
            notes[place] = "; ".join(f"{', '.join(n)}: {why}" if some else why for why, n in by_reason.items())
            words = f"row {self.window.first + place} (counted from 0): {notes[place]}"
            if place in lacking:
                counts.first = counts.first or words
            else:
                counts.first_odd = counts.first_odd or words
        counts.empty += len(empty)
        counts.broken += len(lacking - empty)
        counts.odd += len(reasons.keys() - lacking)
        for place, one in enumerate(self._told or ()):
            if one is not None and one.task is None:
                notes[place] = f"of no task that is known ({_most_likely(one)})"
        return notes


def _most_likely(found: TaskFound) -> str:
    return f"most likely {max(found.shares, key=lambda name: found.shares[name])}, {100 * found.confidence:.1f}%"


def _find_tasks(system: Answerer, parts: Sequence[Part], count: int) -> list[TaskFound | None]:
    """Which task each of `count` rows is of; None where no task can read it. Where a row has the columns of tasks that
    read differently, those that read the most of them come into question."""
    rows: dict[int, Row] = {}
    for part in sorted(parts, key=lambda part: -len(system.definition(part.tasks[0]).inputs)):
        for place, row in zip(part.inputs.places, part.inputs.rows, strict=True):
            rows.setdefault(place, row)
    places = sorted(rows)
    names = [task for part in parts for task in part.tasks]
    told = dict(zip(places, system.find_tasks([rows[place] for place in places], names), strict=True))
    return [told.get(place) for place in range(count)]


def _only(task: str, inputs: Inputs, told: Sequence[TaskFound | None]) -> Inputs:
    """The rows that were found to be of a task."""
    pairs = [(place, row) for place, row in zip(inputs.places, inputs.rows, strict=True)
             if (one := told[place]) is not None and one.task == task]  # fmt: skip
    return Inputs([row for _, row in pairs], [place for place, _ in pairs])


def _check_whole(read: Inputs, window: Window, tasks: Sequence[str], source: str) -> None:
    wrong = {**read.empty, **read.broken}
    if wrong:
        place = min(wrong)
        raise AllroundError(
            f"answer {plural(len(tasks), 'task')} for every row of {source}",
            f"{wrong[place]}, in row {window.first + place} (counted from 0)",
            "correct it; or leave out --strict (strict=False in Python): the row then has an empty answer and a note",
        )


def has_sets(system: Answerer, task: str, asking: Asking) -> bool:
    """Whether sets of answers are wanted, and the system has them for the task."""
    calibration = system.calibration(task)
    return asking.sets and calibration is not None and calibration.sets is not None


def _spread(
    system: Answerer, task: str, made: Answers | None, read: Inputs, window: Window, asking: Asking
) -> TaskAnswers:
    """A task's answers at the places of their rows."""
    definition, calibration = system.definition(task), system.calibration(task)
    rules = kind(definition.kind)
    count = len(window)
    found = TaskAnswers(definition, [None] * count, [None] * count)
    found.scores = [None] * count if asking.ranked and rules.labelled else None
    found.sets = [None] * count if has_sets(system, task, asking) else None
    if made is None:
        return found
    if rules.own_choices:
        found.labels = [None] * count
        for place, row in zip(read.places, read.rows, strict=True):
            found.labels[place] = labels_of(definition, row)
    decoded = rules.decode(made.predictions, definition)
    for place, row, answer in zip(read.places, read.rows, decoded, strict=True):
        found.predictions[place] = in_words(definition, row, answer)
    for place, sure in zip(read.places, made.confidence or (), strict=made.confidence is not None):
        found.confidence[place] = float(sure)
    if found.scores is not None and made.scores is not None:
        for place, sure_of in zip(read.places, made.scores, strict=True):
            found.scores[place] = ranked_labels(sure_of, found.labels_of(place), asking.top)
    if found.sets is not None and calibration is not None and calibration.sets is not None:
        sets: Sequence[list[str] | tuple[float, float]] = sets_of(made, calibration.sets, definition)
        for place, row, one in zip(read.places, read.rows, sets, strict=True):
            found.sets[place] = [str(in_words(definition, row, x)) for x in one] if isinstance(one, list) else one
    return found


def ranked_labels(scores: np.ndarray, labels: Sequence[str], top: int | None) -> Ranked:
    """The probabilities of labels by their names, the most probable first; of each word, for a row with words.

    >>> ranked_labels(np.array([0.25, 0.75]), ["no", "yes"], 1)
    {'yes': 0.75}
    """
    if scores.ndim == 2:
        return [ranked_labels(word, labels, top) for word in scores]  # type: ignore[misc]
    order = sorted(range(len(labels)), key=lambda label: (-scores[label], label))
    return {labels[label]: float(scores[label]) for label in order[:top]}
