"""Several language models that read one prompt: at each place their logits become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from allround.models.language.network import LanguageNetwork

#: Makes one of what several voices say: logits (n, tokens) of each, in their order -> (n, tokens).
Fuse = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Voice:
    """One of the models that answer together: its network, and what holds while it computes, such as the use of a
    module."""

    net: LanguageNetwork
    using: Callable[[], AbstractContextManager[None]]


class Chorus:
    """Fuses, at each token that a first voice writes, its logits with those of others, each with its own key-value
    cache; what logits processors of transformers are.

    tensors: `ids` and `mask` of the prompts, as `write` takes them.
    """

    def __init__(self, others: Sequence[Voice], tensors: Mapping[str, Tensor], fuse: Fuse) -> None:
        self.readers = [_Reader(voice, tensors) for voice in others]
        self.fuse = fuse

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        found = [scores.float(), *(reader.next(input_ids) for reader in self.readers)]
        tokens = min(logits.shape[-1] for logits in found)  # tables may be padded to different lengths
        return self.fuse([logits[:, :tokens] for logits in found])


class _Reader:
    """Logits of one voice after what has been written so far."""

    def __init__(self, voice: Voice, tensors: Mapping[str, Tensor]) -> None:
        self.voice, self.prompt, self.mask = voice, tensors["ids"], tensors["mask"]
        self.read = 0
        self.known: Any = None
        self.encoded: Any = None

    def next(self, ids: Tensor) -> Tensor:
        """Logits (n, tokens) behind all tokens (n, length): prompt and answer; of an encoder-decoder model the answer
        alone."""
        network = self.voice.net.network
        new = ids[:, self.read :]
        more: dict[str, Any]
        with self.voice.using():
            if self.voice.net.two_parts:
                if self.encoded is None:
                    self.encoded = network.get_encoder()(input_ids=self.prompt, attention_mask=self.mask)
                more = {"encoder_outputs": self.encoded, "attention_mask": self.mask, "decoder_input_ids": new}
            else:
                mask = functional.pad(self.mask, (0, ids.shape[1] - self.mask.shape[1]), value=1)
                places = (mask.cumsum(-1) - 1).clamp_min(0)[:, self.read :]
                more = {"input_ids": new, "attention_mask": mask, "position_ids": places}
            if self.known is not None:
                more[self.voice.net.cache_name] = self.known
            made = network(**more, use_cache=True)
        self.read, self.known = ids.shape[1], made.past_key_values
        logits: Tensor = made.logits[:, -1].float()
        return logits


def solo(net: LanguageNetwork) -> Voice:
    """A network that answers as it is."""
    return Voice(net, torch.no_grad)
