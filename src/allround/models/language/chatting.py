"""Replies of a language model to chats: the messages as its template puts them, and what it writes behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allround.core.errors import AllroundError
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.asking import NOTHING, AskedBatch, Ending
from allround.models.language.rows import TokenRow
from allround.models.language.writing import Drawing, end_tokens, write_tokens

_ASKED = "reply to a chat"


@dataclass(frozen=True)
class Style:
    """How a reply is written. most: tokens. stop: texts that end it. drawing: as `write_tokens` has it. seconds: after
    which it is cut."""

    most: int = 256
    stop: tuple[str, ...] = ()
    drawing: Drawing | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Reply:
    """What was written. prompt, tokens: how many were read and written. ended: whether the model, or a text that it was
    to stop at, ended it; otherwise it was cut."""

    text: str
    prompt: int
    tokens: int
    ended: bool


def prompt_of_chat(model: LanguageModel, messages: Sequence[Mapping[str, str]], most: int) -> list[int]:
    """The tokens of a chat, where a reply of `most` tokens has room behind them.

    Errors: a tokenizer without a template, or whose template refuses the messages; a chat that is too long.
    """
    if not getattr(model.tokenizer, "chat_template", None):
        raise AllroundError(_ASKED, "the model's tokenizer has no chat template",
                            "use a model that was trained to chat")  # fmt: skip
    try:
        text = str(model.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template raises whatever it likes
        found = f"the model's chat template refuses it: {(str(error) or type(error).__name__)[:200]}"
        raise AllroundError(_ASKED, found, "send messages of the roles system, user and assistant") from error
    ids = model.asker.renderer.tokens(text, special=False)
    if len(ids) + most > model.max_length:
        raise AllroundError(_ASKED, f"it takes {len(ids)} tokens and {most} for the reply, and the model reads "
                            f"{model.max_length}", "shorten the messages, or ask for fewer tokens")  # fmt: skip
    return ids


def write_replies(model: LanguageModel, prompts: Sequence[Sequence[int]], styles: Sequence[Style]) -> list[Reply]:
    """Replies to chats, written together; each token is the most probable one."""
    ending = Ending(None, (), max(style.most for style in styles))
    ends = end_tokens(model.net, ending)
    seconds = min((style.seconds for style in styles if style.seconds is not None), default=None)
    made = write_tokens(model.net, _tensors(model, prompts), model.tokenizer, ending, seconds=seconds)
    return [_reply(model, len(prompt), row[: style.most], ends, style.stop)
            for prompt, row, style in zip(prompts, made, styles, strict=True)]  # fmt: skip


def write_reply(
    model: LanguageModel, prompt: Sequence[int], style: Style, heard: Callable[[str], bool] = lambda text: False
) -> Reply:
    """A reply to one chat. heard: is given each piece of it as it comes, and says whether no more is wanted."""
    ending = Ending(None, style.stop, style.most)
    ends = end_tokens(model.net, ending)
    tokens: list[int] = []
    told = ""

    def hear(token: int) -> bool:
        nonlocal told
        tokens.append(token)
        reply = _reply(model, len(prompt), tokens, ends, style.stop)
        # The last characters may be half of one, or the beginning of a text that ends the reply.
        safe = reply.text.rstrip("\ufffd")
        held = 0 if reply.ended else max((len(stop) for stop in style.stop), default=1) - 1
        new = safe[len(told) : len(safe) - held]
        told += new
        return heard(new) or reply.ended if new else reply.ended

    made = write_tokens(model.net, _tensors(model, [prompt]), model.tokenizer, ending, drawing=style.drawing,
                        seconds=style.seconds, heard=hear)  # fmt: skip
    reply = _reply(model, len(prompt), made[0], ends, style.stop)
    if len(reply.text) > len(told):
        heard(reply.text[len(told) :])
    return reply


def _tensors(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    device = next(model.parameters()).device
    rows = tuple(TokenRow(tuple(prompt), NOTHING) for prompt in prompts)
    return {name: part.to(device) for name, part in model.net.collate(AskedBatch(rows, ending=0)).items()}


def _reply(model: LanguageModel, prompt: int, row: Sequence[int], ends: Sequence[int], stop: Sequence[str]) -> Reply:
    tokens = row[:-1] if row and row[-1] in ends else row
    text = str(model.tokenizer.decode(tokens, skip_special_tokens=True))
    cuts = [text.find(one) for one in stop if one in text]
    ended = len(tokens) < len(row) or bool(cuts)
    return Reply(text[: min(cuts)] if cuts else text, prompt, len(row), ended)
