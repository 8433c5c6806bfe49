"""The text of a prompt for one row, as it is without a chat template, and the answer that should follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.prompt import Prompt, fill, letter, parse, plain_choices, plain_template, shown
from allround.tasks.values import Row, Target


def prompt_of(definition: Definition) -> Prompt:
    """How a task is put: as it says, or plainly."""
    return definition.prompt or Prompt()


def spaced(prompt: str, answer: str) -> str:
    """An answer as it follows a prompt: behind a space, unless the prompt ends with white space.

    >>> spaced("Answer:", "yes"), spaced("Answer:\\n", "yes")
    (' yes', 'yes')
    """
    return answer if not prompt or prompt[-1].isspace() else f" {answer}"


def question_text(definition: Definition, values: Sequence[str], label: str = "") -> str:
    """The question alone. values: the inputs as text. label: what stands for `{label}`; a template without it asks
    whether the label is right.

    >>> d = Definition("t", "text", ("x",), "text", "bleu", instruction="Be brief.", prompt=Prompt(("Say {x}:",)))
    >>> question_text(d, ["a"])
    'Be brief.\\nSay a:'
    """
    prompt = prompt_of(definition)
    template = prompt.templates[0] if prompt.templates else plain_template(definition.inputs, definition.instruction)
    text = fill(template, {**dict(zip(definition.inputs, values, strict=True)), "label": label})
    if label and not any(name == "label" for _, name in parse(template)):
        text = f"{text}\n{label}? Answer yes or no:"
    return f"{definition.instruction}\n{text}" if definition.instruction and prompt.templates else text


def worked_examples(definition: Definition, label: str = "") -> list[tuple[str, str]]:
    """The question and the answer of each worked example of a task's prompt."""
    shots = prompt_of(definition).demonstrations
    return [(shot.question or question_text(definition, shot.inputs, label), shot.answer) for shot in shots]


def plain_text(definition: Definition, values: Sequence[str], label: str = "") -> str:
    """System message, worked examples and question, a blank line between each."""
    prompt = prompt_of(definition)
    blocks = [prompt.system] if prompt.system else []
    return "\n\n".join([*blocks, *(text + spaced(text, said) for text, said in worked_examples(definition, label)),
                        question_text(definition, values, label)])  # fmt: skip


def example_text(definition: Definition, row: Row, target: Target) -> tuple[str, str]:
    """The prompt of a row, and what a model should say; of several labels, for the first one.

    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes"))
    >>> example_text(d, ("Is it?",), "yes")
    ('X: Is it?\\nAnswer:', 'yes')
    """
    values = [shown(value) for value in row]
    if kind(definition.kind).indicators:
        first = definition.labels[0]
        spoken = (prompt_of(definition).choices or plain_choices(definition.labels))[0]
        return plain_text(definition, values, spoken), "yes" if first in cast("list[str]", target) else "no"
    return plain_text(definition, values), answer_text(definition, row, target)


def answer_text(definition: Definition, row: Row, target: Target) -> str:
    """What a model should say to a row; of a task with one answer a row."""
    prompt = prompt_of(definition)
    if prompt.options:
        choices = cast("list[str]", row[definition.inputs.index(prompt.options)])
        return next(one for place, one in enumerate(choices) if letter(place) == target)
    if isinstance(target, str) and target in definition.labels:
        return (prompt.choices or plain_choices(definition.labels))[definition.labels.index(target)]
    return kind(definition.kind).spoken(target)
