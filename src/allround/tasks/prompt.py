"""How a task is put to a language model, and how the answer is read: templates, choices, examples, the end."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from allround.core.errors import suggestion
from allround.core.schema import STRICT

CHAT = ("auto", "yes", "no")
#: How the log-probability of a choice's tokens becomes its score.
SCORES = ("sum", "mean", "characters")
#: What is subtracted from the score of a choice: its score after nothing, or after a prompt without content.
AGAINST = ("none", "unconditional", "content_free")
#: What training makes more probable: the tokens of the answer, the right one of the choices, or prompt and answer.
LOSSES = ("answer", "choices", "all")
#: What stands in the place of an input in a prompt without content (Zhao et al., ICML 2021, arXiv:2102.09690).
NO_CONTENT = "N/A"


@dataclass(frozen=True)
class Demonstration:
    """A worked example that stands in front of the question: the inputs of a row as text, and its answer.

    question: the whole question, where the row is one of another task.
    """

    __pydantic_config__ = STRICT

    inputs: tuple[str, ...]
    answer: str
    question: str = ""


@dataclass(frozen=True)
class Prompt:
    """How a task is put to a language model.

    templates: the question, with a column's name in braces where its value goes: "Message: {message}"; several put the
    same question in other words, and the first is used for training. choices: what the model says for each label, in
    the order of the labels. options: the input column that holds a row's own choices. system: the system message of a
    chat. chat: whether the tokenizer's chat template is used, "auto" where it has one. demonstrations: worked examples.
    score, against, loss: see `SCORES`, `AGAINST`, `LOSSES`. max_new_tokens: of a written answer. stop: texts that end
    it. extract: a regular expression whose last match is the answer within a text (its first group, if it has one).

    >>> Prompt(("Is this polite? {text}",), choices=("no", "yes")).columns
    ('text',)
    """

    __pydantic_config__ = STRICT

    templates: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    options: str = ""
    system: str = ""
    chat: str = "auto"
    demonstrations: tuple[Demonstration, ...] = ()
    score: str = "sum"
    against: str = "none"
    loss: str = "answer"
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    extract: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the templates name, each once."""
        return tuple(dict.fromkeys(name for template in self.templates for _, name in parse(template) if name))

    def problem(self, inputs: Sequence[str]) -> tuple[str, str] | None:
        """What is wrong with it for a task with these input columns, and what to do; None where nothing is."""
        for template in self.templates:
            try:
                named = [name for _, name in parse(template) if name]
            except ValueError as error:
                return (
                    f"the prompt {_short(template)} cannot be read: {error}",
                    "write a column's name in braces, such as {text}; {{ and }} for braces",
                )
            for name in named:
                if name not in inputs:
                    return f"the prompt {_short(template)} names '{name}', which is no input", suggestion(name, inputs)
            if not template.strip():
                return "a prompt is empty", "write the question, with a column's name in braces: {text}"
        for what, value, known in (
            ("chat", self.chat, CHAT),
            ("score", self.score, SCORES),
            ("against", self.against, AGAINST),
            ("loss", self.loss, LOSSES),
        ):
            if value not in known:
                return f"`{what}` is {value!r}", suggestion(value, known)
        if self.options and self.options not in inputs:
            return f"`choices` names the column '{self.options}', which is no input", suggestion(self.options, inputs)
        if any(not choice.strip() for choice in self.choices):
            return "a choice is blank", "give each label words that the model can say"
        if len(set(self.choices)) < len(self.choices):
            twice = next(choice for choice in self.choices if self.choices.count(choice) > 1)
            return f"two labels have the same choice, {twice!r}", "give each label a choice of its own"
        if self.max_new_tokens < 1:
            return f"`max_new_tokens` is {self.max_new_tokens}", "give at least 1"
        if any(not text for text in self.stop):
            return "`stop` holds an empty text, which every answer holds", "leave it out"
        if self.extract:
            try:
                re.compile(self.extract)
            except re.error as error:
                return f"`extract` is not a regular expression: {error}", "correct it, such as '#### (.*)'"
        return None

    def to_json(self) -> dict[str, object]:
        """Plain data; what is as by default is left out."""
        plain = json.loads(json.dumps(asdict(self)))
        default = json.loads(json.dumps(asdict(Prompt())))
        return {name: value for name, value in plain.items() if value != default[name]}

    def using(self, template: int) -> Prompt:
        """The same with one of its templates alone."""
        return replace(self, templates=(self.templates[template],))


def parse(template: str) -> list[tuple[str, str | None]]:
    """The parts of a template: literal text, and the name of the column that follows it, or None.

    Raises ValueError for anything but plain names, such as an attribute, an index or a format.

    >>> parse("A {text}, {{b}}")
    [('A ', 'text'), (', {', None), ('b}', None)]
    """
    parts: list[tuple[str, str | None]] = []
    for literal, name, spec, conversion in string.Formatter().parse(template):
        if name is not None and (not name or spec or conversion or any(sign in name for sign in ".[]")):
            raise ValueError(f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}} is not "
                             "the name of a column")  # fmt: skip
        parts.append((literal, name))
    return parts


def fill(template: str, values: Mapping[str, str]) -> str:
    """A template with values in it.

    >>> fill("Message: {message}\\nTopic:", {"message": "Where is my {parcel}?"})
    'Message: Where is my {parcel}?\\nTopic:'
    """
    return "".join(literal + (values[name] if name is not None else "") for literal, name in parse(template))


def plain_template(inputs: Sequence[str], instruction: str | None = None) -> str:
    """The prompt of a task that has none: its instruction, each input under its name, and "Answer:".

    >>> plain_template(("text",))
    'Text: {text}\\nAnswer:'
    """
    lines = [f"{name[:1].upper()}{name[1:].replace('_', ' ')}: {{{name}}}" for name in inputs]
    first = [instruction.strip().replace("{", "{{").replace("}", "}}")] if instruction else []
    return "\n".join([*first, *lines, "Answer:"])


def plain_choices(labels: Sequence[str]) -> tuple[str, ...]:
    """What a model says for labels without choices: their names, with spaces for underscores.

    >>> plain_choices(("card_arrival", "top-up"))
    ('card arrival', 'top-up')
    """
    spaced = tuple(label.replace("_", " ") for label in labels)
    return spaced if len(set(spaced)) == len(labels) else tuple(labels)


def letter(place: int) -> str:
    """The letter of the choice at a place; past Z it is a number.

    >>> letter(0), letter(26)
    ('A', '27')
    """
    return chr(65 + place) if place < 26 else str(place + 1)


def letters(count: int) -> tuple[str, ...]:
    """The letters of so many choices.

    >>> letters(3)
    ('A', 'B', 'C')
    """
    return tuple(letter(place) for place in range(count))


def shown(value: object) -> str:
    """A value of an input as it stands in a prompt; a list of choices is lettered, a line each.

    >>> shown(3.0), shown(["red", "blue"])
    ('3', 'A. red\\nB. blue')
    """
    if isinstance(value, list | tuple):
        return "\n".join(f"{letter(place)}. {one}" for place, one in enumerate(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def extracted(text: str, pattern: str) -> str:
    """What a pattern finds last in a text: its first group, if it has one; the text where it finds nothing.

    >>> extracted("7 + 5 = 12, so #### 12", "#### (.*)"), extracted("twelve", "#### (.*)")
    ('12', 'twelve')
    """
    found = list(re.finditer(pattern, text)) if pattern else []
    if not found:
        return text
    last = found[-1]
    return last.group(1) if last.re.groups and last.group(1) is not None else last.group(0)


def _short(text: str) -> str:
    return repr(text if len(text) < 60 else f"{text[:57]}...")
