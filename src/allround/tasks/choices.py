"""Choices of a row's own: their letters, what is wrong with them, and which one a target names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from allround.tasks.columns import Column
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.passages import Passages
from allround.tasks.prompt import letter
from allround.tasks.question import Question
from allround.tasks.values import Row, Target, Value, short

_LETTER = re.compile(r"\(?([A-Za-z])[.)]?")
#: The ways of naming the right choice, in words.
_PLACE, _LETTERED, _TEXT = "place", "letter", "text"


def wrong_choices(value: object) -> str | None:
    """What is wrong with the choices of a row, in words; None where nothing is.

    >>> wrong_choices(["red", "blue"]), wrong_choices(["red"]), wrong_choices(["red", "red "])
    (None, 'only one choice', 'the same choice twice')
    """
    if not isinstance(value, list):
        return "no list of choices"
    if len(value) < 2:
        return "only one choice" if value else "no choice"
    if not all(str(one).strip() for one in value):
        return "a blank choice"
    return "the same choice twice" if len({str(one).strip() for one in value}) < len(value) else None


def wrong_options(definition: Definition, row: Row) -> str | None:
    """What is wrong with the choices of a row of a task, or with its passages, in words; None where nothing is, or rows
    have none."""
    if kind(definition.kind).ranked and not _is_search(row):
        return "no query as text, and then passages"
    options = definition.prompt.options if definition.prompt is not None else ""
    if not options:
        return None
    choices, most = row[definition.inputs.index(options)], len(definition.labels)
    if isinstance(choices, list) and len(choices) > most:
        return f"{len(choices)} choices, and no row that the model was made for has more than {most}"
    return wrong_choices(choices)


def _is_search(row: Row) -> bool:
    """Whether a row is a query and passages."""
    return len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], Passages)


def labels_of(definition: Definition, row: Row) -> Sequence[str]:
    """What the labels of a task are in a row: the texts of its own choices, in their order, or the task's labels."""
    options = definition.prompt.options if definition.prompt is not None else ""
    return _texts(row[definition.inputs.index(options)]) if options else definition.labels


def in_words(definition: Definition, row: Row, answer: Target) -> Target:
    """An answer as people read it: the text of a row's own choice in place of its letter; any other as it is.

    >>> from allround.tasks.prompt import Prompt
    >>> d = Definition("t", "multiple_choice", ("q", "c"), "fields", "accuracy", ("A", "B"), prompt=Prompt(options="c"))
    >>> in_words(d, ("Colour?", ["red", "blue"]), "B")
    'blue'
    """
    if definition.prompt is None or not definition.prompt.options or answer not in definition.labels:
        return answer
    names, place = labels_of(definition, row), definition.labels.index(str(answer))
    return names[place] if place < len(names) else answer


def read_choices(
    question: Question,
    rows: Mapping[str, Sequence[Row]],
    targets: Mapping[str, Sequence[Target | None]],
    columns: Mapping[str, Mapping[str, Column]],
    notes: list[str],
) -> tuple[dict[str, list[Target | None]], int]:
    """The letter of the right choice in each row, and the most choices of a row.

    rows, targets: split -> inputs, and what the target's column holds. columns: as they were read, for numbers of rows.
    notes: what the user should know is added. A column gives places counted from 0, letters, or texts, the same in all
    its rows. Errors: choices that make no sense, and targets that name none of them, with their rows.
    """
    place, name = question.inputs.index(question.options), question.targets[0]
    given = {split: [row[place] for row in part] for split, part in rows.items()}
    for split, choices in given.items():
        column = columns[split][question.options]
        wrong = {i: found for i, value in enumerate(choices) if (found := wrong_choices(value))}
        if wrong:
            first = next(iter(wrong))
            raise question.fail(
                f"the choices '{question.options}' of {split} cannot be told apart in {len(wrong)} of {len(choices)} "
                f"rows: row {column.row(first)} has {wrong[first]}, {short(choices[first])}",
                "give each row a list of at least two choices, none of them blank, each once",
            )
    every = [(split, i) for split, part in targets.items() for i, target in enumerate(part) if target is not None]
    pairs = [(str(targets[split][i]).strip(), _texts(given[split][i])) for split, i in every]
    read = {way: [_named(way, target, choices) for target, choices in pairs] for way in (_PLACE, _LETTERED, _TEXT)}
    whole = [way for way, places in read.items() if None not in places]
    if not whole:
        nearest = min(read, key=lambda way: read[way].count(None))
        lost = [at for at, found in enumerate(read[nearest]) if found is None]
        split, i = every[lost[0]]
        mixed = f"; the others give its {nearest}" if len(lost) < len(every) else ""
        raise question.fail(
            f"target '{name}' names no choice of its row in {len(lost)} of {len(every)} rows, such as "
            f"{short(pairs[lost[0]][0])} in row {columns[split][name].row(i)} of {split}, which has "
            f"{len(pairs[lost[0]][1])} choices{mixed}",
            "give the place of the right choice, counted from 0; or its letter (A, B, ...); or its text",
        )
    for other in whole[1:]:
        apart = [at for at, (one, two) in enumerate(zip(read[whole[0]], read[other], strict=True)) if one != two]
        if apart:
            split, i = every[apart[0]]
            raise question.fail(
                f"target '{name}' can be read in two ways: {short(pairs[apart[0]][0])} in row "
                f"{columns[split][name].row(i)} of {split} is the {whole[0]} of one choice and the {other} of another",
                "give letters (A, B, ...), or places counted from 0 where letters are choices too",
            )
    if whole[0] == _PLACE and 0 not in read[_PLACE]:
        notes.append(f"no target '{name}' is 0: places are counted from 0, so the first choice is never the right one")
    named: dict[str, list[Target | None]] = {split: [None] * len(part) for split, part in targets.items()}
    for (split, i), at in zip(every, read[whole[0]], strict=True):
        assert at is not None
        named[split][i] = letter(at)
    return named, max(len(_texts(value)) for choices in given.values() for value in choices)


def _texts(value: Value) -> list[str]:
    return [one.strip() for one in value] if isinstance(value, list) else []


def _named(way: str, target: str, choices: Sequence[str]) -> int | None:
    """The place of the choice that a target names in one of the ways; None where it names none."""
    if way == _TEXT:
        return choices.index(target) if target in choices else None
    if way == _PLACE:
        place = int(target) if target.isascii() and target.isdigit() else -1
    else:
        found = _LETTER.fullmatch(target)
        place = ord(found.group(1).upper()) - ord("A") if found else -1
    return place if 0 <= place < len(choices) else None
