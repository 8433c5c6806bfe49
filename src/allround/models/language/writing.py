"""Writing answers: greedy or drawn, with a key-value cache, until a token or a text ends each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allround.models.language.asking import Ending
from allround.models.language.network import LanguageNetwork
from allround.models.language.voices import Chorus

#: Tokens at the end of what was written in which a text that ends it is looked for, beside those of the text itself.
_LOOK = 8


def write(
    net: LanguageNetwork,
    tensors: Mapping[str, Tensor],
    tokenizer: Any,
    ending: Ending,
    chorus: Chorus | None = None,
    *,
    drawing: Drawing | None = None,
    read: Any = None,
) -> tuple[str, ...]:
    """What the model writes behind each prompt, without what ends it and white space around it; arguments as in
    `write_tokens`."""
    ends, texts = end_tokens(net, ending), []
    for row in write_tokens(net, tensors, tokenizer, ending, chorus, drawing=drawing, read=read):
        tokens = row[:-1] if row and row[-1] in ends else row
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
        cuts = [text.find(stop) for stop in ending.stop if stop in text]
        text = text[: min(cuts)] if cuts else text
        texts.append(text.strip() if ending.strip else text)
    return tuple(texts)


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn at random. temperature: above 0. top_p: the share of probability that they come from."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@torch.inference_mode()
def write_tokens(
    net: LanguageNetwork,
    tensors: Mapping[str, Tensor],
    tokenizer: Any,
    ending: Ending,
    chorus: Chorus | None = None,
    *,
    drawing: Drawing | None = None,
    seconds: float | None = None,
    heard: Callable[[int], bool] | None = None,
    read: Any = None,
) -> list[list[int]]:
    """The tokens that the model writes behind each prompt, with that which ends them where one does.

    tensors: `ids` and `mask` of the prompts, padded on the left (of an encoder-decoder model on the right). chorus:
    other models that have a say in each token. drawing: tokens are drawn; by default each is the most probable one.
    seconds: no token is begun later than this. heard: is given each token of a single prompt as it comes, and says
    whether it was the last. read: keys and values of all tokens of the prompts but the last ones, where they are known.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    ids, mask = tensors["ids"], tensors["mask"]
    start = 1 if net.two_parts else ids.shape[1]
    ends = end_tokens(net, ending)
    plain = GenerationConfig(
        max_new_tokens=ending.most,
        do_sample=drawing is not None,
        **({} if drawing is None else {"temperature": drawing.temperature, "top_p": drawing.top_p, "top_k": 0}),
        max_time=seconds,
        num_beams=1,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        decoder_start_token_id=net.network.config.decoder_start_token_id if net.two_parts else None,
    )
    stops = StoppingCriteriaList([_Stops(tokenizer, ending.stop, start)] if ending.stop else [])
    if heard is not None:
        stops.append(_Hears(heard))
    was_training = net.training
    net.eval()
    with torch.random.fork_rng(devices=[], enabled=drawing is not None):
        if drawing is not None:
            torch.manual_seed(drawing.seed)
        made = net.network.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=plain,
            stopping_criteria=stops,
            logits_processor=LogitsProcessorList([] if chorus is None else [chorus]),
            **({} if read is None else {net.cache_name: read}),
        )
    net.train(was_training)
    rows: list[list[int]] = made[:, start:].tolist()
    return [row[: next((at + 1 for at, token in enumerate(row) if token in ends), len(row))] for row in rows]


class _Hears:
    """Shows each token to somebody, who may end the answer."""

    def __init__(self, heard: Callable[[int], bool]) -> None:
        self.heard = heard

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return torch.tensor([self.heard(int(input_ids[0, -1]))], device=input_ids.device)


def end_tokens(net: LanguageNetwork, ending: Ending) -> list[int]:
    """Tokens that end an answer: that of the task, and those that the model was saved with."""
    known = getattr(net.network, "generation_config", None)
    saved = getattr(known, "eos_token_id", None)
    more = saved if isinstance(saved, list) else [] if saved is None else [saved]
    found = [*([] if ending.token is None else [ending.token]), *more]
    return list(dict.fromkeys(int(token) for token in found))


class _Stops:
    """Ends a row where one of some texts stands in what was written; what stopping criteria of transformers are."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        longest = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in stop)
        self.look = longest + _LOOK

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        new = input_ids[:, max(self.start, input_ids.shape[1] - self.look) :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        done = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)
