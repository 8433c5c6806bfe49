"""Queries that a language model writes for passages, behind a few examples of a passage and its query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch

from allround.core.seeds import seed_of
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.writing import Drawing, write
from allround.tasks.definition import Definition
from allround.tasks.prompt import Demonstration, Prompt

#: Most tokens of a query.
LONGEST = 64


def query_task(
    examples: Sequence[tuple[str, str]], words: tuple[str, str] = ("Passage", "Query"), instruction: str | None = None
) -> Definition:
    """The task of writing a query for a passage, each on one line.

    examples: passages and their queries, which stand before the question. words: what a passage and a query are called
    in the prompt. instruction: stands before all.

    >>> from allround.tasks.prompt_text import plain_text
    >>> print(plain_text(query_task([("About bills.", "where is my bill")]), ["About parcels."]))
    Passage: About bills.
    Query: where is my bill
    <BLANKLINE>
    Passage: About parcels.
    Query:
    """
    passage, query = (word.replace("{", "{{").replace("}", "}}") for word in words)
    prompt = Prompt(
        (f"{passage}: {{passage}}\n{query}:",),
        system=instruction or "",
        chat="no",
        demonstrations=tuple(Demonstration((one_line(text),), one_line(asked)) for text, asked in examples),
        max_new_tokens=LONGEST,
        stop=("\n",),
    )
    return Definition("queries", "text", ("passage",), "text", "exact_match", prompt=prompt)


def one_line(text: str) -> str:
    """A text without breaks of lines, which end what is written.

    >>> one_line(" Signing in:\\n  a new  phone")
    'Signing in: a new phone'
    """
    return " ".join(text.split())


@dataclass(frozen=True)
class QueryWriter:
    """Draws queries for passages.

    task: as `query_task` makes it. temperature: above 0; the higher, the more the queries of a passage differ. The
    queries of a passage depend on its text, its id and the seed alone, not on other passages.
    """

    model: LanguageModel
    task: Definition
    temperature: float = 0.7
    seed: int = 0

    def fitting(self) -> QueryWriter:
        """The same with as many examples, the first ones, as take at most half of what the model can read."""
        renderer, prompt = self.model.asker.renderer, self.task.prompt
        assert prompt is not None
        task = self.task
        for count in range(len(prompt.demonstrations), -1, -1):
            task = replace(task, prompt=replace(prompt, demonstrations=prompt.demonstrations[:count]))
            if renderer.fits(task, ("",), renderer.longest // 2):
                break
        return replace(self, task=task)

    @property
    def examples(self) -> int:
        """How many examples stand in the prompt."""
        return len(self.task.prompt.demonstrations) if self.task.prompt is not None else 0

    @torch.inference_mode()
    def write(self, one: str, text: str, count: int) -> list[str]:
        """So many queries for a passage with this id and text. Some may be empty, or the same."""
        model = self.model.eval()
        (row,) = model.prepare([(one_line(text),)], self.task)
        device = next(model.parameters()).device
        tensors = {name: part.to(device) for name, part in model.collate([row] * count, self.task).tensors.items()}
        ending = model.asker.endings[int(tensors["write"])]
        drawing = Drawing(self.temperature, seed=seed_of(self.seed, "queries", one))
        made = write(
            model.net, tensors, model.tokenizer, ending, drawing=drawing, read=self._read(row.prompts[0], count)
        )
        return [one_line(query) for query in made]

    def _read(self, prompt: tuple[int, ...], count: int) -> Any:
        """What the network keeps of a prompt without its last token, for so many rows; None where it is not plain."""
        start, known = self._start
        if known is None or prompt[: len(start)] != start:
            return None
        device = next(self.model.parameters()).device
        read = self.model.net.read_prompt(torch.tensor([prompt[len(start) : -1]], device=device), known)
        read.batch_repeat_interleave(count)
        return read

    @cached_property
    def _start(self) -> tuple[tuple[int, ...], Any]:
        """The tokens that all prompts begin with, the examples among them, and what the network keeps of them."""
        first, other = (self.model.prepare([(text,)], self.task)[0].prompts[0] for text in ("A", "7"))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(first, other, strict=False))
        start = tuple(one for one, _ in same)[:-2]  # tokens at the border depend on the passage's first letters
        if not start:
            return start, None
        device = next(self.model.parameters()).device
        return start, self.model.net.read_prompt(torch.tensor([start], device=device))
