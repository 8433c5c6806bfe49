"""Texts as vectors, one for each text or for each of its tokens, by a text encoder or by a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.encoders.text import Text
from allround.models.running import by_length
from allround.tasks.definition import Definition

#: How an encoder is told to read a text.
_READING = Definition("text", "classification", ("text",), "text", "accuracy", ("0", "1"))
#: Texts that are read at once.
AT_ONCE = 32
#: Most tokens of a text that a language model reads here.
LONGEST = 512


class _Read(NamedTuple):
    """What was made of a text."""

    tokens: NDArray[np.float32]
    vector: NDArray[np.float32]


class TextReader:
    """Reads texts by an encoder of texts, or by a language model: by its states after half of its layers.

    Marks that a tokenizer adds are no tokens of a text.
    """

    def __init__(self, encoder: Encoder) -> None:
        if not isinstance(encoder, Text | LanguageModel):
            raise AllroundError(
                "read texts to choose demonstrations",
                f"the encoder '{encoder.name}' reads no texts",
                "give a text encoder, such as encoder=all-MiniLM-L6-v2, or leave it out",
            )
        self.encoder = encoder
        self._kept: dict[str, _Read] = {}

    def tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """For each text a vector of length 1 for each of its tokens: (tokens, d)."""
        return [one.tokens for one in self._read(texts)]

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text: (n, d); of a language model that of the mean of its tokens' states."""
        return np.stack([one.vector for one in self._read(texts)])

    @property
    def width(self) -> int:
        """The length of a vector."""
        return self.encoder.dim if isinstance(self.encoder, Text) else self.encoder.net.width

    def keep(self, texts: Sequence[str]) -> None:
        """Read these texts once, and know their vectors from then on."""
        self._kept |= dict(zip(texts, self._read(texts), strict=True))

    @torch.inference_mode()
    def _read(self, texts: Sequence[str]) -> list[_Read]:
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        self.encoder.eval()
        marks = set(self.encoder.tokenizer.all_special_ids)
        ids = [self._ids(text) for text in new]
        found: dict[str, _Read] = {}
        for numbers in by_length([len(one) for one in ids], AT_ONCE):
            states, vectors = self._states([ids[number] for number in numbers])
            for place, number in enumerate(numbers):
                own = states[place][[at for at, token in enumerate(ids[number]) if token not in marks] or [0]]
                vector = own.mean(0) if vectors is None else vectors[place]
                found[new[number]] = _Read(_unit(own), _unit(vector))
        return [self._kept[text] if text in self._kept else found[text] for text in texts]

    def _ids(self, text: str) -> list[int]:
        if isinstance(self.encoder, Text):
            found: list[int] = self.encoder.prepare([(text,)], _READING)[0]["ids"][0]
            return found
        ids = self.encoder.asker.renderer.tokens(text, special=False)[:LONGEST]
        return ids or self.encoder.asker.renderer.tokens(" ", special=False)

    def _states(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """States of the tokens of texts, (n, tokens, d), and, of a text encoder, a vector for each text."""
        device = next(self.encoder.parameters()).device
        if isinstance(self.encoder, Text):
            batch = self.encoder.collate([{"ids": [list(one)]} for one in ids], _READING).to(device)
            found = self.encoder.pipeline(dict(batch.tensors))
            return found["token_embeddings"].float().cpu(), found["sentence_embedding"].float().cpu()
        width = max(map(len, ids))
        padded = torch.tensor([[*one, *[0] * (width - len(one))] for one in ids], device=device)
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids], device=device)
        net = self.encoder.net
        network = net.network.get_encoder() if net.two_parts else net.network.base_model
        states = network(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
        return states[len(states) // 2].float().cpu(), None


def _unit(values: Tensor) -> NDArray[np.float32]:
    return F.normalize(values, dim=-1).numpy()
