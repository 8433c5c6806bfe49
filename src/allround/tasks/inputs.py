"""Inputs: which modality the columns of data are of, and the rows of inputs that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from allround.core import registry
from allround.core.problems import Problems
from allround.tasks.cells import columns_of
from allround.tasks.column_types import Ambiguous, ColumnType, understand
from allround.tasks.columns import Column
from allround.tasks.modality import Choice, Modality, ReadColumn, modality
from allround.tasks.question import Question
from allround.tasks.splits import Part
from allround.tasks.values import Row, is_missing, short


def choose_modality(question: Question, given: str | None, train: Mapping[str, Column]) -> str:
    """The modality of a task: what was given, or else what the first values in train look like."""
    in_words = question.prompted or question.rules.for_language_models
    every = {name: modality(name) for name in registry.names("modality")}
    known = {name: one for name, one in every.items() if in_words or name == given or not one.for_prompts}
    if question.rules.ranked:
        texts = next(name for name, one in known.items() if one.searched)
        if given not in (None, texts):
            raise question.fail(f"the modality is {given}, and the kind is {question.kind}", f"use modality: {texts}")
        return texts
    if question.rules.per_token:
        return next(name for name, one in known.items() if name == given or (given is None and one.by_word))
    if given is not None:
        _check_columns(question, given, known[given])
        return given
    found = {name: _recognised(question, name, train[name], known) for name in question.inputs}
    if in_words:
        return _in_words(question, found, known)
    mixing = next(name for name, one in known.items() if one.mixes)
    for name in [name for name in question.inputs if found[name] == "text"]:
        if _is_tabular(train[name].values, alone=len(question.inputs) == 1):
            found[name] = mixing
    if len(set(found.values())) == 1:
        (only,) = set(found.values())
        _check_columns(question, only, known[only])
        return only
    for name in found.values():
        if known[name].most_columns == 1:
            raise question.fail(
                f"`inputs` joins an {name} with other columns ({', '.join(question.inputs)})",
                f"name the column of {name}s only",
            )
    return mixing


def _in_words(question: Question, found: Mapping[str, str], known: Mapping[str, Modality]) -> str:
    """The modality of a task that is put to a language model: one or two texts are text, which encoders read too."""
    alone = next(iter(found.values())) if len(set(found.values())) == 1 else None
    if alone is not None and not question.options:
        most = known[alone].most_columns
        if known[alone].pairs and most is not None and len(found) <= most:
            return alone
        if most == 1 and not question.rules.for_language_models:
            _check_columns(question, alone, known[alone])
            return alone
    return next(name for name, one in known.items() if one.for_prompts)


def _recognised(question: Question, name: str, column: Column, known: dict[str, Modality]) -> str:
    first = next((v for v in column.values if not is_missing(v)), None)
    for found, rules in known.items():
        if rules.recognises(first):
            return found
    raise question.fail(
        f"input '{name}' of train holds {short(first)}, a {type(first).__name__}",
        "give text, lists of words, images, or numbers",
    )


def _is_tabular(values: Sequence[object], *, alone: bool) -> bool:
    """Whether a column of texts is one of dates or, beside other columns, one of numbers."""
    try:
        found = understand(values).type
    except Ambiguous:
        return True
    return found == "date" or (found == "number" and not alone)


def _check_columns(question: Question, name: str, rules: Modality) -> None:
    count = len(question.inputs)
    if rules.most_columns is not None and count > rules.most_columns:
        a = "an" if name[0] in "aeiou" else "a"
        raise question.fail(f"{a} {name} task has {count} input columns", rules.fewer)


@dataclass(frozen=True)
class Inputs:
    """The rows of inputs of every split, and of a table how its columns were understood."""

    rows: dict[str, list[Row]]
    types: tuple[ColumnType, ...]

    def facts(self, train: Sequence[Row]) -> tuple[ColumnType, ...]:
        """The types with what these training rows hold."""
        columns = columns_of(train, len(self.types)) if self.types else []
        return tuple(type_.with_facts(column) for type_, column in zip(self.types, columns, strict=True))


def read_inputs(question: Question, rules: Modality, columns: dict[str, dict[str, Column]], notes: list[str]) -> Inputs:
    """The inputs of a task. rules: of their modality. notes: what the user should know is added."""
    if question.types and not rules.gaps:
        raise question.fail(
            f"`types` is set, and the modality is not table: {', '.join(question.types)}",
            "set modality: table, or leave `types` out",
        )
    read: list[ReadColumn] = []
    problems = Problems()
    for name in question.inputs:
        with problems.gathered():
            values = {split: columns[split][name].values for split in columns}
            choice = Choice(question.types.get(name), question.stray)
            read.append(rules.read_column(name, values, question.fail, choice))
    problems.check(f"make the task '{question.name}'")
    notes.extend(note for column in read for note in column.notes)
    rows = {split: list(zip(*(column.values[split] for column in read), strict=True)) for split in columns}
    return Inputs(rows, tuple(column.type for column in read if column.type is not None))


def check_words(question: Question, parts: dict[str, Part], notes: list[str]) -> frozenset[int]:
    """Check that each word has a tag, and take rows without words out of the parts; a note says how many.

    Rows of a table stay until the splits are drawn, since other tasks of the table may have a target for them: they
    lose their targets, and their numbers are returned.
    """
    wordless: set[int] = set()
    for split, part in parts.items():
        lengths = [len(words) for (words,) in part.inputs if isinstance(words, list)]
        tags = [None if target is None else len(target) for target in part.targets if not isinstance(target, float)]
        uneven = [i for i, (n, m) in enumerate(zip(lengths, tags, strict=True)) if m is not None and n != m]
        if uneven:
            i = uneven[0]
            raise question.fail(
                f"{len(uneven)} of {len(part)} rows of {split} do not have one tag a word, "
                f"such as row {i} with {lengths[i]} words and {tags[i]} tags",
                "give one tag a word",
            )
        kept = [i for i, length in enumerate(lengths) if length]
        if len(kept) == len(part):
            continue
        if not kept:
            raise question.fail(f"no row of {split} has any words", "give rows with words")
        notes.append(f"{len(part) - len(kept)} of {len(part)} {split} rows have no words and are left out")
        if question.table is None:
            parts[split] = part.take(kept)
        else:
            wordless.update(part.numbers[i] for i, length in enumerate(lengths) if not length)
            targets = [target if length else None for target, length in zip(part.targets, lengths, strict=True)]
            parts[split] = replace(part, targets=targets)
    return frozenset(wordless)
