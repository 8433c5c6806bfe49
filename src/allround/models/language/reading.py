"""What a language model reads of a task: one prompt as text with all its marks, and how long the rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from allround.core.errors import AllroundError
from allround.models.base import builtin_encoders, find_folder, load_encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.asking import AskedRow
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.task import Split


@dataclass(frozen=True)
class ReadPrompt:
    """The prompt of a row as a model reads it, with the marks of its tokenizer, and the answer it is taught, with its
    end; empty where it is taught none. chat: whether the chat template made it. tokens: of the prompt. cut: whether an
    input was cut."""

    text: str
    answer: str
    chat: bool
    tokens: int
    cut: bool


@dataclass(frozen=True)
class ReadRows:
    """How long rows are, in tokens.

    prompt: mean of the prompts; longest: of those. row: mean of what training reads of a row. answer: mean of the right
    answers, 0 where a model gives none. cut: rows with an input that was cut, of `rows`; shortened: those whose right
    answer was, since it has more tokens than may be written.
    """

    rows: int
    cut: int
    prompt: float
    longest: int
    row: float
    answer: float
    shortened: int = 0


def language_model(base: str) -> LanguageModel:
    """A base that must be a language model. Errors: it is another, or cannot be loaded."""
    made = None if base in builtin_encoders() else load_encoder(find_folder(base))
    if not isinstance(made, LanguageModel):
        raise AllroundError(
            f"show a prompt as {base} reads it",
            f"it is not a language model: its encoder is '{base if made is None else made.name}'",
            "give a language model, or leave --base out",
        )
    return made


def read_prompt(encoder: LanguageModel, definition: Definition, rows: Split) -> ReadPrompt:
    """The prompt of the first row; of several labels, that of the first one."""
    first = rows.take([0])
    row: AskedRow = encoder.prepare(first.inputs, definition, first.targets)[0]
    answer = _answer(encoder, definition, row, first.targets[0])
    text, said = (_text(encoder.tokenizer, tokens) for tokens in (row.prompts[0], answer))
    return ReadPrompt(text, said, encoder.asker.renderer.chats(definition), len(row.prompts[0]), row.cut)


def read_rows(encoder: LanguageModel, definition: Definition, rows: Split) -> ReadRows:
    """How long rows are as the model reads them."""
    made: Sequence[AskedRow] = encoder.prepare(rows.inputs, definition, rows.targets)
    prompts = [len(prompt) for row in made for prompt in row.prompts]
    head, asker = encoder.head(definition), encoder.asker
    taught = [asker.taught(definition, head, row, target) for row, target in zip(made, rows.targets, strict=True)]
    read = [encoder.length(row) if one is None else one.length for row, one in zip(made, taught, strict=True)]
    answers = [len(_answer(encoder, definition, row, target)) for row, target in zip(made, rows.targets, strict=True)]
    return ReadRows(
        rows=len(made),
        cut=sum(row.cut for row in made),
        prompt=_mean(prompts),
        longest=max(prompts, default=0),
        row=_mean(read),
        answer=_mean(answers),
        shortened=sum(row.shortened for row in made),
    )


def _answer(encoder: LanguageModel, definition: Definition, row: AskedRow, target: Any) -> tuple[int, ...]:
    """The tokens of the right answer to the first prompt of a row, with an end where training teaches one; none where
    a head reads a vector or a mean."""
    if encoder.head(definition) == "generate":
        return row.taught
    rules, tree = kind(definition.kind), row.trees[0]
    if encoder.head(definition) != "choices" or rules.numeric:
        return ()
    path = tree.paths[1 - int(target[0])] if rules.indicators else tree.paths[int(target)]
    tokens, end = tuple(tree.tokens[place] for place in path), encoder.asker.renderer.end(definition)
    compared = encoder.asker.taught(definition, "choices", row, target) is None
    return tokens if compared or end is None or tokens[-1:] == (end,) else (*tokens, end)


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
