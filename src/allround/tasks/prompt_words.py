"""The words of a suite file and of `make_task` that say how a task is put to a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

import numpy as np

from allround.core import registry
from allround.core.errors import suggestion
from allround.core.seeds import seed_of
from allround.tasks.prompt import Demonstration, Prompt, letter, plain_choices, shown
from allround.tasks.question import Question
from allround.tasks.splits import Part
from allround.tasks.values import Target


class PromptWords(TypedDict, total=False):
    """What may be said of a prompt; all of it may be left out.

    prompt: a template, or several that put the same question in other words. choices: label -> what the model says for
    it; or the input column that holds a row's own choices. shots: how many training rows stand before the question as
    worked examples. The rest is as in `Prompt`.
    """

    prompt: str | Sequence[str] | None
    choices: Mapping[str | int | float | bool, str] | str | None
    system: str | None
    chat: str | None
    shots: int | None
    score: str | None
    against: str | None
    loss: str | None
    max_new_tokens: int | None
    stop: str | Sequence[str] | None
    extract: str | None


def options_of(words: PromptWords) -> tuple[str, bool]:
    """The input column that holds a row's own choices, or nothing; and whether anything was said of the prompt."""
    choices = words.get("choices")
    return choices if isinstance(choices, str) else "", any(value is not None for value in words.values())


def make_prompt(
    question: Question, words: PromptWords, labels: Sequence[str], named: Mapping[str, str], train: Part
) -> Prompt | None:
    """The prompt of a task; None where nothing was said, and the task can be answered without one.

    labels: of the definition, in their order. named: raw value of a label -> its name. train: rows for `shots`.
    """
    said = {name: value for name, value in words.items() if value is not None}
    if not said and not question.rules.written:
        return None
    templates, choices = said.pop("prompt", ()), said.pop("choices", None)
    shots, stop = said.pop("shots", 0), said.pop("stop", ())
    options = choices if isinstance(choices, str) else ""
    spoken = () if choices is None or options else _choices(question, choices, labels, named)
    made = Prompt(
        templates=(templates,) if isinstance(templates, str) else tuple(cast("Sequence[str]", templates)),
        options=options,
        stop=(stop,) if isinstance(stop, str) else tuple(cast("Sequence[str]", stop)),
        choices=spoken,
        demonstrations=_demonstrations(
            question, cast(int, shots), train, dict(zip(labels, spoken or plain_choices(labels), strict=True))
        ),
        **cast("dict", said),
    )
    if wrong := made.problem(question.inputs):
        raise question.fail(*wrong)
    return made


def check_head(question: Question, name: str | None) -> str:
    """The name of a sort of head that exists; empty where none was asked for."""
    known = registry.names("head")
    if name is not None and name not in known:
        raise question.fail(f"`head` is {name!r}", suggestion(name, known))
    return name or ""


def _choices(question: Question, given: object, labels: Sequence[str], named: Mapping[str, str]) -> tuple[str, ...]:
    """What the model says for each label. given: by the name of a label, or by its raw value."""
    if not labels:
        raise question.fail(f"`choices` is given, and targets of the kind {question.kind} have no labels",
                            "leave `choices` out")  # fmt: skip
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for text in given.values()):
        raise question.fail(f"`choices` is {given!r}", "give what the model says for each label: {label: words}")
    known = {named.get(str(label), str(label)): text for label, text in given.items()}
    odd = [label for label in known if label not in labels]
    if odd:
        raise question.fail(f"`choices` names the label '{odd[0]}', which no training row has",
                            suggestion(odd[0], labels))  # fmt: skip
    spoken = dict(zip(labels, plain_choices(labels), strict=True))
    return tuple(known.get(label, spoken[label]) for label in labels)


def _demonstrations(
    question: Question, shots: int, train: Part, spoken: Mapping[str, str]
) -> tuple[Demonstration, ...]:
    """Training rows as worked examples, drawn by the task's name; as many labels among them as there can be.

    spoken: what the model says for each label.
    """
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 0:
        raise question.fail(f"`shots` is {shots!r}", "give a whole number of at least 0")
    if shots == 0:
        return ()
    rows = [row for row, target in enumerate(train.targets) if target is not None]
    if shots > len(rows):
        raise question.fail(f"`shots` is {shots}, and there are {len(rows)} training rows", "give fewer")
    order = [rows[i] for i in np.random.default_rng(seed_of(0, "shots", question.name)).permutation(len(rows))]
    seen: dict[str, list[int]] = {}
    for row in order:
        seen.setdefault(_key(train.targets[row]), []).append(row)
    turns = [
        (place, order.index(row), row) for group in seen.values() for place, row in enumerate(group)
    ]  # the first of each label, then the second of each
    drawn = [row for *_, row in sorted(turns)[:shots]]
    found = []
    for row in drawn:
        target = train.targets[row]
        assert target is not None
        said = spoken[target] if isinstance(target, str) and target in spoken else question.rules.spoken(target)
        if question.options:
            choices = train.inputs[row][question.inputs.index(question.options)]
            assert isinstance(choices, list)
            said = next(one for place, one in enumerate(choices) if letter(place) == target)
        found.append(Demonstration(tuple(shown(value) for value in train.inputs[row]), said))
    return tuple(found)


def _key(target: Target | None) -> str:
    return repr(target) if isinstance(target, str | list) else ""
