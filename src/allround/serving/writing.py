"""Work of language models and encoders behind OpenAI's routes: replies to chats, and embeddings of texts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allround.core.errors import AllroundError
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.chatting import Reply, Style, prompt_of_chat, write_replies, write_reply
from allround.models.running import features_of
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.engine import Work
from allround.serving.questions import tokens_of
from allround.tasks.definition import Definition

#: What texts are embedded as: the input of a task that no model has.
_TEXT = Definition("embedding", "classification", ("text",), "text", "accuracy", ("a", "b"), head="linear")


@dataclass(frozen=True)
class ChatWork(Work):
    """A chat that wants a reply. heard: takes its pieces as they come. gone: is set when nobody wants more."""

    messages: Sequence[dict[str, str]]
    style: Style
    heard: Callable[[str], object] | None = None
    gone: threading.Event = field(default_factory=threading.Event)

    rows = 1

    @property
    def tokens(self) -> int:  # type: ignore[override]
        return self.style.most + tokens_of(list(self.messages))

    @classmethod
    def answer(cls, system: System, works: Sequence[ChatWork], together: int) -> list[object]:
        model = language_model(system)
        found: list[Any] = [_prompt(model, one) for one in works]
        alike = [place for place, prompt in enumerate(found) if isinstance(prompt, list) and works[place]._plain]
        for start in range(0, len(alike), together):
            some = alike[start : start + together]
            made = write_replies(model, [found[place] for place in some], [works[place].style for place in some])
            for place, reply in zip(some, made, strict=True):
                found[place] = reply
        return [one._alone(model, made) if isinstance(made, list) else made
                for one, made in zip(works, found, strict=True)]  # fmt: skip

    @property
    def _plain(self) -> bool:
        """Whether it can be written beside others."""
        return self.style.drawing is None and self.heard is None

    def _alone(self, model: LanguageModel, prompt: list[int]) -> Reply:
        def hear(text: str) -> bool:
            if self.heard is not None:
                self.heard(text)
            return self.gone.is_set()

        return write_reply(model, prompt, self.style, hear)


def _prompt(model: LanguageModel, work: ChatWork) -> list[int] | AllroundError:
    try:
        return prompt_of_chat(model, work.messages, work.style.most)
    except AllroundError as error:
        return error


def language_model(system: System) -> LanguageModel:
    """The language model that a system is made of. Errors: there is none."""
    if isinstance(system, MultiTaskModel) and isinstance(system.encoder, LanguageModel):
        return system.encoder
    raise AllroundError("reply to a chat", "the model is no language model", "ask /v1/predict, or another model")


@dataclass(frozen=True)
class EmbeddingsWork(Work):
    """Texts that want a vector each, of length 1."""

    texts: Sequence[str]

    @property
    def rows(self) -> int:  # type: ignore[override]
        return len(self.texts)

    @property
    def tokens(self) -> int:  # type: ignore[override]
        return tokens_of(list(self.texts))

    @classmethod
    def answer(cls, system: System, works: Sequence[EmbeddingsWork], together: int) -> list[object]:
        """The vectors of each, float32 (texts, d), and how many tokens were read."""
        if not isinstance(system, MultiTaskModel) or "text" not in system.encoder.modalities or system.encoder.by_task:
            raise AllroundError("embed texts", "the model has no encoder of texts that all its tasks share",
                                "ask another model")  # fmt: skip
        encoder = system.encoder
        prepared = encoder.prepare([(text,) for work in works for text in work.texts], _TEXT)
        values = encoder.common(features_of(encoder, prepared, _TEXT, together).values).numpy()
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        found: list[object] = []
        start = 0
        for work in works:
            end = start + work.rows
            found.append((values[start:end], sum(map(encoder.length, prepared[start:end]))))
            start = end
        return found
