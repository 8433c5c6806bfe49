"""Questions: rows, and the tasks that they are asked of. Those of many requests are answered together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from allround.models.batch import Answers
from allround.models.prediction.answerer import Asking
from allround.models.prediction.answers import Answered, Counts, Part, Reading, choose_tasks
from allround.models.prompts import instructed
from allround.models.system import System
from allround.serving.engine import Work
from allround.serving.received import of_one_input, received
from allround.tasks.sources.stream import Lines
from allround.tasks.values import Row

#: About how many characters a token has.
CHARACTERS = 4
#: What the rows are from, in messages.
SOURCE = "the inputs"


@dataclass(frozen=True)
class Question(Work):
    """The rows of a request and what is asked of them.

    inputs: texts, each the one input of a row, or objects of cells. tokens: about how many there are in the rows.
    """

    inputs: Sequence[str] | Sequence[Mapping[str, object]]
    asking: Asking
    tokens: int

    @property
    def rows(self) -> int:  # type: ignore[override]
        return len(self.inputs)

    @classmethod
    def make(cls, inputs: Sequence[str] | Sequence[Mapping[str, object]], asking: Asking) -> Question:
        before = 0 if asking.instruction is None else len(inputs) * tokens_of(asking.instruction)
        return cls(inputs, asking, before + sum(map(tokens_of, inputs)))

    @classmethod
    def answer(cls, system: System, works: Sequence[Question], together: int) -> list[object]:
        return list(answer_questions(system, works, together))


def tokens_of(cell: object) -> int:
    """About how many tokens a cell has.

    >>> tokens_of("a text of 26 characters ..."), tokens_of(["two", "words"]), tokens_of(3.5)
    (7, 3, 1)
    """
    if isinstance(cell, str):
        return 1 + len(cell) // CHARACTERS
    if isinstance(cell, (list, Mapping)):
        return sum(map(tokens_of, cell if isinstance(cell, list) else cell.values()))
    return 1


@dataclass
class _Alike:
    """Rows of several questions that tasks read alike, and the tasks that each is asked of, by its number."""

    rows: list[Row] = field(default_factory=list)
    asked: dict[str, list[int]] = field(default_factory=dict)


def answer_questions(system: System, questions: Sequence[Question], together: int = 64) -> list[Answered | Exception]:
    """The answers to questions, each as it would be alone; an exception for one that fails.

    Rows that tasks read alike go through the encoder once, whichever question they are of; questions with instructions
    of their own are answered apart from others. together: most rows that a network reads at once.
    """
    read = [_read(system, one) for one in questions]
    sound = {number: one for number, one in enumerate(read) if isinstance(one, Reading)}
    told: dict[Hashable, dict[int, Reading]] = {}
    for number, reading in sound.items():
        asking = reading.asking
        key = None if asking.instruction is None else (asking.instruction, asking.tasks)
        told.setdefault(key, {})[number] = reading
    try:
        made: dict[int, Answered | Exception] = {}
        for some in told.values():
            asking = next(iter(some.values())).asking
            made.update(_answered(instructed(system, asking), some, together))
    except Exception as error:
        if len(sound) == 1:
            return [error if isinstance(one, Reading) else one for one in read]
        # One of the questions cannot be answered, and that is no concern of the others.
        made = {number: answer_questions(system, [questions[number]], together)[0] for number in sound}
    return [made[number] if isinstance(one, Reading) else one for number, one in enumerate(read)]


def _read(system: System, question: Question) -> Reading | Exception:
    try:
        asking, system = question.asking, instructed(system, question.asking)
        window = received(system, question.inputs)
        if isinstance(window, Lines):
            asking = of_one_input(system, asking)
        tasks = choose_tasks(system, window, asking, SOURCE, Counts())
        return Reading(system, tasks, window, asking, SOURCE)
    except Exception as error:
        return error


def _answered(system: System, readings: dict[int, Reading], together: int) -> dict[int, Answered]:
    joined: dict[tuple[Hashable, bool], _Alike] = {}
    places: dict[tuple[int, int], dict[str, range]] = {}
    for number, reading in readings.items():
        for at, part in enumerate(reading.parts):
            places[number, at] = _join(joined.setdefault((part.alike, part.scores), _Alike()), part)
    made: dict[tuple[Hashable, bool], dict[str, Answers]] = {}
    for key, one in joined.items():
        made[key] = system.answer_asked(one.asked, one.rows, batch_size=together, scores=key[1]) if one.rows else {}
    found = {}
    for number, reading in readings.items():
        answers = [
            {task: made[part.alike, part.scores][task].take(rows) for task, rows in places[number, at].items()}
            for at, part in enumerate(reading.parts)
        ]
        found[number] = reading.answered(answers)
    return found


def _join(alike: _Alike, part: Part) -> dict[str, range]:
    """Put the rows of a part behind those that are there; where the answers of each task to them will stand."""
    rows = part.inputs.rows
    if not rows:
        return {}
    first, places = len(alike.rows), {}
    alike.rows += rows
    for task in part.tasks:
        numbers = alike.asked.setdefault(task, [])
        places[task] = range(len(numbers), len(numbers) + len(rows))
        numbers += range(first, len(alike.rows))
    return places
