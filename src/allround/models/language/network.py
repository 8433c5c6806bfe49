"""The network of a language model: hidden states of packed rows, and the log-probabilities that follow from them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from allround.core.errors import AllroundError
from allround.models.language.asking import AskedBatch
from allround.models.language.log_probabilities import CHUNK, log_probabilities, ranked
from allround.models.language.packing import common_start, pack
from allround.models.language.rows import ROOT, TokenRow

#: A beginning that rows have in common is read once where it has at least so many tokens.
SHARED = 16
#: Entries of the attention masks of slots that are computed at once, without gradients.
AT_ONCE = 1 << 26
#: How far the log-probabilities may be from those that the library computes.
_CLOSE = 1e-3


class LanguageNetwork(nn.Module):
    """A language model of transformers.

    two_parts: whether an encoder reads the prompt and a decoder the answer.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.config = network.config.get_text_config() if hasattr(network.config, "get_text_config") else network.config
        self.two_parts = bool(getattr(network.config, "is_encoder_decoder", False))
        self.width = int(self.config.hidden_size)
        self.factor = 1.0
        cap = getattr(self.config, "final_logit_softcapping", None)
        self.cap = float(cap) if cap else None

    def output(self, states: Tensor) -> Tensor:
        """Logits (n, vocabulary) of hidden states (n, d)."""
        return self._finished(self.network.get_output_embeddings()(states))

    def _finished(self, logits: Tensor) -> Tensor:
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    # -- what is trained -----------------------------------------------------------------------------------------------

    def adapted_layers(self) -> list[str]:
        """The layers that low-rank changes are added to: all linear ones but the output."""
        from transformers.pytorch_utils import Conv1D

        output = self.network.get_output_embeddings()
        kinds = (nn.Linear, nn.Conv2d, Conv1D)
        return [n for n, m in self.network.named_modules() if isinstance(m, kinds) and m is not output]

    def table(self) -> set[int]:
        """The ids of the parameters of the tables of tokens, at the input and at the output."""
        parts = (self.network.get_input_embeddings(), self.network.get_output_embeddings())
        return {id(parameter) for part in parts if part is not None for parameter in part.parameters()}

    # -- batches -------------------------------------------------------------------------------------------------------

    def collate(self, asked: AskedBatch) -> dict[str, Tensor]:
        """Rows of tokens as tensors."""
        if asked.ending is not None:
            return {**_padded(asked.rows, left=not self.two_parts), "write": torch.tensor(asked.ending)}
        made = self._collate_two(asked.rows) if self.two_parts else self._collate_one(asked.rows)
        if not any(row.tree.tokens for row in asked.rows):
            return made
        made.pop("last")
        if asked.options is not None:
            made["options"] = torch.from_numpy(asked.options)
        if asked.choice is not None and asked.divide is not None:
            edges, paths, start, number = [], [], 0, 0
            for row in asked.rows:
                for path in row.tree.paths:
                    edges += [start + place for place in path]
                    paths += [number] * len(path)
                    number += 1
                start += len(row.tree.tokens)
            made |= {
                "edge": torch.tensor(edges, dtype=torch.long),
                "path": torch.tensor(paths, dtype=torch.long),
                "choice": torch.from_numpy(asked.choice),
                "divide": torch.from_numpy(asked.divide),
            }
            if asked.against is not None:
                made["against"] = torch.from_numpy(asked.against)
        return made

    def _collate_one(self, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
        skipped = common_start(rows) if len(rows) > 1 else 0
        skipped = skipped if skipped >= SHARED else 0
        packed = pack(rows, skipped=skipped)
        made = {
            "ids": packed.ids,
            "positions": packed.positions,
            "seen": packed.seen,
            "reads": packed.reads,
            "tokens": packed.tokens,
            "last": packed.lasts,
            "attention_mask": packed.used,  # what statistics count
        }
        if skipped:
            made["start"] = torch.tensor([rows[0].prompt[:skipped]])
        return made

    def _collate_two(self, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
        """Prompts for the encoder, and a row of the decoder for each path."""
        made = _padded(rows, left=False)
        paths = [[row.tree.tokens[place] for place in path] for row in rows for path in row.tree.paths]
        width = max(map(len, paths), default=1)
        decoded = torch.zeros(len(paths), width, dtype=torch.long)
        reads: list[int] = []
        number = 0
        for row in rows:
            where: dict[int, int] = {}
            for path in row.tree.paths:
                tokens = [self._first, *(row.tree.tokens[place] for place in path[:-1])]
                decoded[number, : len(tokens)] = torch.tensor(tokens)
                where.update((before, number * width + at) for at, before in enumerate((ROOT, *path[:-1])))
                number += 1
            reads += [where[parent] for parent in row.tree.parents]
        made |= {
            "attention_mask": made["mask"],
            "decoded": decoded,
            "of": torch.tensor([n for n, row in enumerate(rows) for _ in row.tree.paths], dtype=torch.long),
            "reads": torch.tensor(reads, dtype=torch.long),
            "tokens": torch.tensor([token for row in rows for token in row.tree.tokens], dtype=torch.long),
            "last": torch.arange(len(rows)),
        }
        return made

    @property
    def _first(self) -> int:
        """The token that a decoder begins with."""
        config = self.network.config
        return int(config.decoder_start_token_id if config.decoder_start_token_id is not None else 0)

    # -- states --------------------------------------------------------------------------------------------------------

    def vectors(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A vector for each row: the last state of its prompt, or the mean of an encoder's states; (n, d)."""
        if not self.two_parts:
            return self._states(tensors).flatten(0, 1)[tensors["last"]]
        states, mask = self._encoded(tensors), tensors["mask"].unsqueeze(-1)
        mean: Tensor = (states * mask).sum(1) / mask.sum(1)
        return mean

    def log_probabilities(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """log p of each token that is asked for, given those before it: (tokens,), float32."""
        return log_probabilities(self._read_states(tensors), tensors["tokens"], self._bound_output())

    def ranked(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The same, and whether each token is the most probable one: (tokens, 2), float32."""
        return ranked(self._read_states(tensors), tensors["tokens"], self.output)

    def following(
        self, tensors: Mapping[str, Tensor], places: Sequence[int], tokens: Sequence[NDArray[np.int32]]
    ) -> list[NDArray[np.float64]]:
        """log p of each of several tokens at places where a token's probability is asked for: a list for each place."""
        states, found = self._read_states(tensors)[torch.tensor(places)], []
        for start in range(0, len(states), CHUNK):
            logits = self.output(states[start : start + CHUNK]).float().log_softmax(-1).cpu().numpy()
            found += [
                row[some].astype(np.float64) for row, some in zip(logits, tokens[start : start + CHUNK], strict=True)
            ]
        return found

    def likeliest(self, tensors: Mapping[str, Tensor], count: int) -> Tensor:
        """The most probable tokens where a token's probability is asked for, in order: (tokens, count)."""
        states = self._read_states(tensors)
        return torch.cat([self.output(some).topk(count).indices for some in states.split(CHUNK)])

    def _read_states(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The state before each token that is asked for: (tokens, d)."""
        states = self._decoded(tensors) if self.two_parts else self._states(tensors)
        return states.flatten(0, 1)[tensors["reads"]]

    def _bound_output(self) -> Callable[[Tensor], Tensor]:
        """`output` with the weights that the layer has now: a backward pass may come when it has others."""
        layer = self.network.get_output_embeddings()
        if type(layer) is not nn.Linear:
            return self.output
        weight, bias = layer.weight, layer.bias
        return lambda states: self._finished(functional.linear(states, weight, bias))

    def _states(self, tensors: Mapping[str, Tensor]) -> Tensor:
        ids, positions, seen = tensors["ids"], tensors["positions"], tensors["seen"]
        start = tensors.get("start")
        at_once = max(1, AT_ONCE // (seen.shape[-1] * seen.shape[-2]))
        if torch.is_grad_enabled() or at_once >= len(ids):
            return self._read(ids, positions, seen, start)
        parts = [slice(at, at + at_once) for at in range(0, len(ids), at_once)]
        return torch.cat([self._read(ids[part], positions[part], seen[part], start) for part in parts])

    def _read(self, ids: Tensor, positions: Tensor, seen: Tensor, start: Tensor | None) -> Tensor:
        """Last hidden states of slots: (slots, length, d)."""
        more: dict[str, Any] = {}
        if start is not None and (torch.is_grad_enabled() or not self._plain_cache):
            whole = start.shape[1]  # each slot begins with what its rows have in common
            ids = torch.cat([start.expand(len(ids), -1), ids], 1)
            positions = torch.cat([torch.arange(whole, device=ids.device).expand(len(ids), -1), positions], 1)
            top = torch.ones(whole, whole + seen.shape[-2], dtype=torch.bool, device=ids.device).tril()
            seen = torch.cat([top.expand(len(ids), 1, -1, -1), seen], 2)
            return self._read(ids, positions, seen, None)[:, whole:]
        if start is not None:
            known = self.network.base_model(input_ids=start, use_cache=True).past_key_values
            known.batch_repeat_interleave(len(ids))
            more[self.cache_name] = known
        made = self.network.base_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._mask(seen),
            use_cache=bool(more),
            **more,
        )
        states: Tensor = made.last_hidden_state
        return states

    def _mask(self, seen: Tensor) -> Tensor:
        """What is seen, as the network's attention takes it."""
        if self.network.config._attn_implementation == "sdpa":
            return seen
        kind = next(self.network.parameters()).dtype
        return torch.zeros_like(seen, dtype=kind).masked_fill(~seen, torch.finfo(kind).min)

    @cached_property
    def cache_name(self) -> str:
        """What the network calls the keys and values of what it has read; versions of transformers differ."""
        known = inspect.signature(self.network.base_model.forward).parameters
        return "cache" if "cache" in known else "past_key_values"

    def read_prompt(self, ids: Tensor, before: Any = None) -> Any:
        """The keys and values of the tokens of one prompt, (1, n), behind others that were read before it.

        before: what this gave for those; it stays as it is. None where layers forget what they have read, or a prompt
        goes to an encoder of its own.
        """
        if self.two_parts or not self._plain_cache:
            return None
        known = copy.deepcopy(before)
        length = ids.shape[1] + (0 if known is None else known.get_seq_length())
        more = {} if known is None else {self.cache_name: known}
        made = self.network.base_model(
            input_ids=ids, attention_mask=ids.new_ones(1, length), use_cache=True, **more
        )  # fmt: skip
        return made.past_key_values

    @property
    def _plain_cache(self) -> bool:
        """Whether each layer keeps all that it has read."""
        kinds = getattr(self.config, "layer_types", None) or ["full_attention"]
        return set(kinds) == {"full_attention"} and not getattr(self.config, "sliding_window", None)

    def _encoded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        made = self.network.get_encoder()(input_ids=tensors["ids"], attention_mask=tensors["mask"])
        states: Tensor = made.last_hidden_state
        return states

    def _decoded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        states, of = self._encoded(tensors), tensors["of"]
        made = self.network.get_decoder()(
            input_ids=tensors["decoded"],
            encoder_hidden_states=states[of],
            encoder_attention_mask=tensors["mask"][of],
            use_cache=False,
        )
        found: Tensor = made.last_hidden_state
        return found

    # -- a trial -------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def try_out(self) -> None:
        """Compare what is computed here with the library's logits, and learn the factor that some networks have.

        Errors: other numbers.
        """
        self.network.eval()
        ids = torch.arange(4).unsqueeze(0) % self.config.vocab_size
        if self.two_parts:
            made = self.network(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
            states = made.decoder_hidden_states[-1]
        else:
            made = self.network(input_ids=ids, output_hidden_states=True)
            states = self.network.base_model(input_ids=ids).last_hidden_state
        wanted, found = made.logits[0].float(), self.output(states[0]).float()
        if self.cap is None and found.abs().max() > 0:
            ratio = float((wanted * found).sum() / found.square().sum())
            if abs(ratio - 1) > _CLOSE:
                self.factor, found = ratio, found * ratio
        apart = float((wanted.log_softmax(-1) - found.log_softmax(-1)).abs().max())
        if not apart <= _CLOSE:
            raise AllroundError(
                f"use a language model of the type '{self.network.config.model_type}'",
                "its logits are not its output layer on its last hidden states (log-probabilities differ by "
                f"{apart:.2g})",
                "use another base; networks of the types llama, qwen2, gpt2, gpt_neox, gemma and t5 are known to work",
            )


def _padded(rows: Sequence[TokenRow], *, left: bool) -> dict[str, Tensor]:
    """Prompts side by side, padded: ids and mask, (n, longest)."""
    width = max(len(row.prompt) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row.prompt), width) if left else slice(len(row.prompt))
        ids[number, place] = torch.tensor(row.prompt)
        mask[number, place] = 1
    return {"ids": ids, "mask": mask}
