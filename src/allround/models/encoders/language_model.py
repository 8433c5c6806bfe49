"""Language models of transformers, causal or encoder-decoder: they answer by the likelihood of texts, or write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder
from allround.models.language.asking import AskedBatch, AskedRow, Asker, Ending, with_options
from allround.models.language.network import LanguageNetwork
from allround.models.language.rendering import Renderer
from allround.models.language.requests import Requester, RequestRow, answered, collate
from allround.models.language.rows import TokenRow, make_tree
from allround.models.language.voices import Chorus, Fuse, Voice
from allround.models.language.writing import write, write_tokens
from allround.models.running import batches, by_length
from allround.models.text_rows import describe_tokenizer
from allround.tasks.definition import Definition
from allround.tasks.harness.requests import Asked, right_of
from allround.tasks.kind import Encoded, kind
from allround.tasks.values import Row

#: Most tokens of a prompt and its answer together where nobody asks for more.
LONGEST = 2048
#: How many tokens are compared at each place of an answer, the rest of them counting as one more.
OPTIONS = 16
#: Rows whose answers are written, or compared token by token, at once.
AT_ONCE = 32


@method(source="Radford et al., Language models are unsupervised multitask learners, 2019")
class LanguageModel(Encoder):
    """A causal or encoder-decoder language model; what its features are depends on the head of a task.

    `choices`: scores of the answers that a task lists, (n, answers), in one pass for a prompt and all of them.
    `generate`: the texts that it writes. Of both, where targets are given: log-probabilities of the tokens of the right
    answers, (tokens, 1). `requests`: log-likelihood and greediness of each text that a benchmark asks for, (texts, 2),
    or the texts that it writes. Any other head: the last hidden state of the prompt, (n, d); of an encoder-decoder
    model the mean of the encoder's states.

    Its table of tokens is not trained unless `tune_embeddings` says so. The saved folder loads in plain transformers.
    """

    name = "language_model"
    modalities = ("text", "fields")
    gives = ("vectors", "scores", "texts")
    learning_rate = 5e-5
    lora_rate = 1e-3
    learn_batch: int = 8
    lora_rank = 16
    epochs = 3
    least_steps = 80
    keeps_adapters = True

    def __init__(
        self, network: Any, tokenizer: Any, *, max_length: int | None = None, tune_embeddings: bool = False
    ) -> None:
        super().__init__()
        self.net = LanguageNetwork(network)
        self.tokenizer = tokenizer
        self.max_length = _length(max_length, network.config)
        self.tune_embeddings = tune_embeddings
        longest = _readable(network.config) or LONGEST
        self.requester = Requester(tokenizer, longest, bare=self.net.two_parts)
        self.asker = Asker(Renderer(tokenizer, self.max_length, bare=self.net.two_parts))

    @property
    def backbone(self) -> torch.nn.Module:
        network: torch.nn.Module = self.net.network
        return network

    def default_head(self, definition: Definition) -> str:
        if definition.harness:
            return "requests"
        rules = kind(definition.kind)
        if rules.written:
            return "generate"
        if rules.numeric:
            return "choices" if definition.prompt is not None and definition.prompt.choices else "generate"
        return "linear" if rules.ordered else "choices"

    def features(self, definition: Definition) -> int:
        head = self.head(definition)
        if head == "choices":
            listed = definition.prompt.choices if definition.prompt is not None else ()
            return len(listed) if kind(definition.kind).numeric else len(definition.labels)
        return {"generate": 1, "requests": 2}.get(head, self.net.width)

    def check(self, definition: Definition) -> None:
        super().check(definition)
        if kind(definition.kind).per_token:
            raise AllroundError(
                f"read the words of task '{definition.name}' with a language model",
                "it reads whole texts, from left to right",
                "use a text encoder as the --base, or leave the task out",
            )

    # -- rows --------------------------------------------------------------------------------------------------------

    @cached_property
    def preparation(self) -> object:
        template = str(getattr(self.tokenizer, "chat_template", None))
        return [self.name, self.max_length, template, *describe_tokenizer(self.tokenizer)]

    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Any]:
        self.check(definition)
        if self.head(definition) == "requests":
            return self._requests(inputs, targets)
        return self.asker.rows(definition, self.head(definition), inputs, targets)

    def _requests(self, inputs: Sequence[Row], targets: Encoded | None) -> list[RequestRow]:
        """Rows of a benchmark; with targets also the right answer to each, where it is known."""
        asked = [Asked.from_text(str(row[0])) for row in inputs]
        rows = [self.requester.prepare(one) for one in asked]
        for place, target in enumerate(() if targets is None else targets):
            right = right_of(target[0])
            if right is not None:
                rows[place] = replace(rows[place], taught=self.requester.teach(asked[place], right))
        return rows

    def length(self, prepared: Any) -> int:
        return int(prepared.length)

    def entries(self, prepared: Sequence[Any], definition: Definition, targets: Encoded) -> list[int]:
        """How many single losses each row has: one for each token of the right answer."""
        return [self._entries(row, definition, target) for row, target in zip(prepared, targets, strict=True)]

    def _entries(self, prepared: Any, definition: Definition, target: Any) -> int:
        if isinstance(prepared, RequestRow):
            return 1 if prepared.taught is None else len(prepared.taught.tree.tokens)
        taught = self.asker.taught(definition, self.head(definition), prepared, target)
        return len(taught.tree.tokens) if taught is not None else 1

    def cut(self, inputs: Sequence[Row], definition: Definition) -> int:
        return sum(row.cut for row in self.prepare(inputs, definition))

    def collate(self, prepared: Sequence[Any], definition: Definition, targets: Encoded | None = None) -> Batch:
        if self.head(definition) == "requests":
            rows: Sequence[RequestRow] = prepared
            taught = [row.taught for row in rows if row.taught is not None]
            if targets is not None and len(taught) == len(rows):
                lengths = tuple(len(row.tree.tokens) for row in taught)
                return Batch(self.net.collate(AskedBatch(tuple(taught), lengths)), len(rows), lengths)
            lengths = () if rows[0].ending else tuple(len(row.parts) for row in rows)
            return Batch(collate(self.net, rows, self.asker.endings), len(rows), lengths)
        asked = self.asker.batch(definition, self.head(definition), prepared, targets)
        return Batch(self.net.collate(asked), len(prepared), asked.lengths)

    # -- features ----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Features:
        tensors = batch.tensors
        if "write" in tensors:
            texts = write(self.net, tensors, self.tokenizer, self._ending(tensors))
            return Features(tensors["mask"].new_zeros(batch.size, 1, dtype=torch.float32), texts=texts)
        if "requests" in tensors:
            return Features(answered(self.net.ranked(tensors), tensors), batch.lengths)
        if "last" in tensors:
            return Features(self.net.vectors(tensors))
        found = self.net.log_probabilities(tensors)
        if "options" in tensors:
            return Features(_with_rest(found[tensors["options"]]), batch.lengths)
        if batch.lengths:
            return Features(found.unsqueeze(-1), batch.lengths)
        return Features(_scores(found, tensors))

    def written_by(self, voices: Sequence[Voice], batch: Batch, fuse: Fuse) -> Features:
        """What several models write together: features of a batch whose answers are written."""
        first, *others = voices
        with first.using():
            texts = write(first.net, batch.tensors, self.tokenizer, self._ending(batch.tensors),
                          Chorus(others, batch.tensors, fuse))  # fmt: skip
        return Features(batch.tensors["mask"].new_zeros(batch.size, 1, dtype=torch.float32), texts=texts)

    def _ending(self, tensors: Mapping[str, Tensor]) -> Ending:
        return self.asker.endings[int(tensors["write"])]

    # -- answers that are written, token by token ------------------------------------------------------------------

    def token_choice(self, definition: Definition) -> Definition | None:
        if self.head(definition) != "generate":
            return None
        labels = (*map(str, range(self._options)), "rest")
        return Definition(definition.name, "classification", definition.inputs, definition.modality, "accuracy", labels,
                          head="choices")  # fmt: skip

    @property
    def _options(self) -> int:
        """How many tokens are compared at each place of an answer."""
        return min(OPTIONS, int(self.net.config.vocab_size) - 1)

    @torch.inference_mode()
    def token_rows(
        self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None
    ) -> list[tuple[AskedRow, tuple[int, ...]]]:
        self.eval()
        rows = self.prepare(inputs, definition, targets)
        answers = [row.taught for row in rows]
        if targets is None:
            for numbers, batch in batches(self, rows, definition, AT_ONCE):
                made = write_tokens(self.net, batch.tensors, self.tokenizer, self._ending(batch.tensors))
                for number, tokens in zip(numbers, made, strict=True):
                    answers[number] = tuple(tokens)
        device = next(self.parameters()).device
        found: list[tuple[AskedRow, tuple[int, ...]]] = [(row, ()) for row in rows]
        for numbers in by_length([len(row.prompts[0]) + len(a) for row, a in zip(rows, answers, strict=True)], AT_ONCE):
            some = [number for number in numbers if answers[number]]
            if not some:
                continue
            asked = AskedBatch(tuple(TokenRow(rows[n].prompts[0], make_tree([answers[n]])) for n in some))
            tensors = {name: part.to(device) for name, part in self.net.collate(asked).items()}
            places = iter(self.net.likeliest(tensors, self._options).tolist())
            for n in some:
                found[n] = with_options(rows[n], answers[n], [next(places) for _ in answers[n]])
        return found

    # -- on disk -----------------------------------------------------------------------------------------------------

    def adapted_layers(self) -> list[str]:
        return self.net.adapted_layers()

    def frozen(self) -> set[int]:
        return set() if self.tune_embeddings else self.net.table()

    def save(self, folder: Path) -> None:
        self.backbone.save_pretrained(str(folder))  # type: ignore[operator]
        self.tokenizer.save_pretrained(str(folder))
        settings: dict[str, object] = {"max_length": self.max_length}
        settings |= {"tune_embeddings": True} if self.tune_embeddings else {}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> LanguageModel:
        from allround.models.language.loading import load_language_model

        network, tokenizer, notes = load_language_model(folder)
        made = cls(network, tokenizer, **settings)
        made.net.try_out()
        made.notes = notes
        return made


def _scores(found: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Scores of the choices, (n, choices), from log-probabilities of the tokens of all paths."""
    sums = found.new_zeros(len(tensors["divide"])).index_add(0, tensors["path"], found[tensors["edge"]])
    sums = sums / tensors["divide"]
    scores = sums[tensors["choice"].clamp_min(0)]
    if "against" in tensors:
        scores = scores - sums[tensors["against"].clamp_min(0)]
    return scores.masked_fill(tensors["choice"] < 0, ABSENT)


def _with_rest(found: Tensor) -> Tensor:
    """Log-probabilities of some tokens, and of all others together: (n, k) -> (n, k + 1)."""
    rest = 1 - found.exp().sum(-1, keepdim=True)
    return torch.cat([found, rest.clamp_min(SLIGHT).log()], -1)


#: The least probability that all tokens beside those that are compared have together.
SLIGHT = 1e-6
#: The score of a choice that a row does not have: its probability is 0.
ABSENT = -1e9


def _length(asked: int | None, config: Any) -> int:
    """How many tokens of a prompt and its answer are read: as many as asked for, if the network can take them."""
    most = _readable(config)
    for words, length in (("the base can read", most), ("asked for are", asked)):
        if length is not None and (isinstance(length, bool) or not length >= 2):
            raise AllroundError(
                "read prompts" if asked is None else f"read prompts of up to {asked} tokens",
                f"{words} {length} tokens, and a prompt with its answer takes 2 at least",
                "give a larger --max-length; check max_position_embeddings in the base's config.json",
            )
    return min(limit for limit in (LONGEST if asked is None else asked, most) if limit is not None)


def _readable(config: Any) -> int | None:
    """How many tokens the network can read; None where its config does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = ("max_position_embeddings", "n_positions", "seq_length")
    return next((int(value) for name in names if (value := getattr(text, name, None)) is not None), None)
