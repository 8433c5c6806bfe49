"""Rows of a task as a language model reads them: the prompt rendered, cut to length, and its answers as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from allround.core.errors import AllroundError
from allround.core.locks import Lock
from allround.tasks.definition import Definition
from allround.tasks.prompt import NO_CONTENT, shown
from allround.tasks.prompt_text import plain_text, prompt_of, question_text, spaced, worked_examples
from allround.tasks.values import Row

#: Characters before an answer that decide how its beginning is cut into tokens.
_TAIL = 32


@dataclass(frozen=True)
class Rendered:
    """A prompt as text and as tokens. cut: whether an input was cut to make it fit."""

    text: str
    ids: list[int]
    cut: bool = False


@dataclass
class Renderer:
    """Renders prompts with a tokenizer.

    longest: tokens that the model can read, of prompt and answer together. bare: whether answers begin a text of their
    own, as in the decoder of an encoder-decoder model.
    """

    tokenizer: Any
    longest: int
    bare: bool = False
    _lock: Lock = field(default_factory=Lock)
    _answers: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    _ends: dict[bool, int | None] = field(default_factory=dict)

    def chats(self, definition: Definition) -> bool:
        """Whether a task is put as a chat. Errors: it must be, and the tokenizer has no template for it."""
        chat = prompt_of(definition).chat
        has = bool(getattr(self.tokenizer, "chat_template", None))
        if chat == "yes" and not has:
            raise AllroundError(
                f"put task '{definition.name}' as a chat",
                "the base's tokenizer has no chat template",
                "leave `chat: yes` out, or use a base that was trained to chat",
            )
        return has if chat == "auto" else chat == "yes"

    def render(
        self, definition: Definition, row: Row, *, room: int = 0, label: str = "", blank: bool = False
    ) -> Rendered:
        """The prompt of a row. Inputs are cut where it would be too long; question, examples and answer never are.

        room: tokens to keep free for the answer. label: what stands for `{label}`. blank: without the inputs' content.
        Errors: a prompt that is too long without any input.
        """
        values = [NO_CONTENT if blank else shown(value) for value in row]
        limit = self.longest - room
        text = self._text(definition, values, label)
        ids = self.tokens(text, special=not self.chats(definition))
        cut = False
        while len(ids) > limit:
            longest = max(range(len(values)), key=lambda place: len(values[place])) if values else 0
            if not values or not values[longest]:
                raise AllroundError(
                    f"put task '{definition.name}' to a language model",
                    f"its prompt takes {len(ids)} tokens without any input, and {max(limit, 0)} fit beside the answer",
                    "shorten the prompt, give fewer `shots`, or allow longer rows: --max-length",
                )
            values[longest] = self._shorter(values[longest], len(ids) - limit)
            text, cut = self._text(definition, values, label), True
            ids = self.tokens(text, special=not self.chats(definition))
        return Rendered(text, ids, cut)

    def fits(self, definition: Definition, row: Row, room: int) -> bool:
        """Whether the whole prompt of a row can be read beside so many tokens of an answer."""
        text = self._text(definition, [shown(value) for value in row], "")
        return len(self.tokens(text, special=not self.chats(definition))) + room <= self.longest

    def _shorter(self, text: str, over: int) -> str:
        """A text without its last `over` tokens or more."""
        with self._lock:
            kept = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: -max(over, 1)]
            shorter = str(self.tokenizer.decode(kept, skip_special_tokens=False)).rstrip("�")
        return shorter if len(shorter) < len(text) else text[: len(text) // 2]

    def _text(self, definition: Definition, values: Sequence[str], label: str) -> str:
        prompt = prompt_of(definition)
        if not self.chats(definition):
            return plain_text(definition, values, label)
        question = question_text(definition, values, label)
        messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
        for text, answer in worked_examples(definition, label):
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return self._chat(definition.name, [*messages, {"role": "user", "content": question}])

    def _chat(self, task: str, messages: list[dict[str, str]], *, ask: bool = True) -> str:
        try:
            with self._lock:
                return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
        except Exception as error:  # a template raises whatever it likes
            raise AllroundError(
                f"put task '{task}' as a chat",
                f"the chat template of the base's tokenizer refuses it: {(str(error) or type(error).__name__)[:200]}",
                "leave `system` and `shots` out if it takes none; or put the task without a chat: `chat: no`",
            ) from error

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """The tokens of a text. special: with the marks that the tokenizer puts around it, but not its end."""
        with self._lock:
            ids = list(self.tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"])
        end = self.tokenizer.eos_token_id
        return ids[:-1] if special and not self.bare and len(ids) > 1 and ids[-1] == end else ids

    def answer(self, prompt: str, answer: str) -> tuple[int, ...]:
        """The tokens of an answer behind a prompt, cut as they are when both are one text.

        Errors: an answer without tokens.
        """
        if self.bare:
            key = ("", answer)
        else:
            answer = spaced(prompt, answer)
            key = (prompt[-_TAIL:], answer)
        found = self._answers.get(key)
        if found is None:
            tail, text = key
            before = self.tokens(tail, special=False) if tail else []
            whole = self.tokens(tail + text, special=False)
            found = self._answers[key] = tuple(whole[len(before) :])
        if not found:
            raise AllroundError(
                "put a task to a language model",
                f"the answer {answer!r} has no tokens of its own behind its prompt",
                "give it other words under `choices`, or end the prompt in another way",
            )
        return found

    def end(self, definition: Definition) -> int | None:
        """The token that ends an answer: that which the chat template puts there, else the end of a text; None where
        the tokenizer has none."""
        chat = self.chats(definition)
        if chat not in self._ends:
            found = self.tokenizer.eos_token_id
            if chat:
                said = "answer"
                text = self._chat(definition.name, [{"role": "user", "content": "question"},
                                                    {"role": "assistant", "content": said}], ask=False)  # fmt: skip
                after = self.tokens(text.rpartition(said)[2].lstrip(), special=False)
                special = set(self.tokenizer.all_special_ids)
                found = after[0] if after and after[0] in special else found
            self._ends[chat] = None if found is None else int(found)
        return self._ends[chat]
