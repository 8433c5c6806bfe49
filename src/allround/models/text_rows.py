"""How texts become the batches of a text encoder, apart from its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.locks import Lock
from allround.models.batch import Batch
from allround.tasks.contrast import Contrast, of_row
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.passages import Passages
from allround.tasks.values import Row


class TextRows:
    """Texts, pairs of texts and lists of words as token ids.

    max_length: most tokens of a sequence. dim: the length of a text's vector. hidden: that of what the network gives
    for a token. tokens: how many the network knows, where it has a table of them. pairs, first_token: as `Text` has
    them. masked: vectors leave the tokens of instructions out.
    """

    name: ClassVar[str] = "text"
    modalities: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        dim: int,
        hidden: int,
        tokens: int | None = None,
        pairs: str = "separate",
        first_token: Sequence[str] = (),
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.masked = masked
        self.tokenizer = tokenizer
        self._tokenizing = Lock()  # a tokenizer keeps how it cuts texts, and lets no other thread use it meanwhile
        self.max_length, self.dim, self.hidden, self.tokens = max_length, dim, hidden, tokens
        self.pairs, self.first_token = pairs, tuple(first_token)

    def reads_apart(self, definition: Definition) -> bool:
        return definition.pair and self.pairs == "separate"

    def features(self, definition: Definition) -> int:
        if self._reads_first_token(definition):
            return self.dim + self.hidden
        return self.dim * (4 if self.reads_apart(definition) else 1)

    def common(self, values: Tensor) -> Tensor:
        if values.shape[-1] == 4 * self.dim:  # of a pair: the mean of both texts
            return (values[:, : self.dim] + values[:, self.dim : 2 * self.dim]) / 2
        return values[:, : self.dim]

    def _reads_first_token(self, definition: Definition) -> bool:
        """Whether the features of a task hold the first token's."""
        apart = self.reads_apart(definition)
        return definition.name in self.first_token and not apart and not kind(definition.kind).per_token

    @cached_property
    def preparation(self) -> object:
        with self._tokenizing:
            known = [self.name, self.max_length, self.pairs, *describe_tokenizer(self.tokenizer)]
        return [*known, "masked"] if self.masked else known

    def prepare(
        self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None
    ) -> list[dict[str, Any]]:
        found = self._prepared(inputs, definition, targets)
        marks = {"instructed": definition.instruction}
        if kind(definition.kind).ranked:
            marks["passages_instructed"] = _of_passages(definition)
        counts = {name: self._instruction_tokens(definition, said) for name, said in marks.items() if said}
        return [{**one, **counts} for one in found] if self.masked and counts else found

    def _instruction_tokens(self, definition: Definition, instruction: str) -> int:
        """How many tokens of a text are its instruction's, as sentence-transformers counts them: with those that the
        tokenizer puts first."""
        (ids,) = self._tokenized(definition, [_instructed(instruction, "")])["input_ids"]
        return len(ids) - (1 if ids[-1] in self.tokenizer.all_special_ids else 0)

    def _prepared(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None) -> list[dict[str, Any]]:
        if kind(definition.kind).per_token:
            return self._prepare_words([list(cast(list[str], words)) for (words,) in inputs], definition)
        if kind(definition.kind).ranked:
            return self._prepare_search(inputs, definition, targets)
        texts = [[_instructed(definition.instruction, str(row[0])) for row in inputs]]
        if definition.pair:
            texts.append([str(row[1]) for row in inputs])
        elif len(definition.inputs) > 1:
            raise AllroundError(
                f"read {len(definition.inputs)} texts in each row of task '{definition.name}'",
                "an encoder reads one text, or a pair",
                "name one or two columns under 'inputs'",
            )
        if definition.pair and self.pairs == "joint":
            coded = self._tokenized(definition, *texts)
            types = coded.get("token_type_ids")
            return [{"ids": [ids], "types": types[i] if types else None} for i, ids in enumerate(coded["input_ids"])]
        sides = [self._tokenized(definition, side)["input_ids"] for side in texts]
        return [{"ids": list(ids)} for ids in zip(*sides, strict=True)]

    def _prepare_search(
        self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None
    ) -> list[dict[str, Any]]:
        """The query of each row, and the row's passages; where there are targets, those that training looks at."""
        queries = self._tokenized(definition, [_instructed(definition.instruction, str(row[0])) for row in inputs])[
            "input_ids"
        ]
        found: list[dict[str, Any]] = []
        known: dict[tuple[int, str], list[int]] = {}
        chosen: list[Sequence[str]] = [()] * len(inputs)
        if targets is not None:
            contrast = definition.contrast or Contrast()
            chosen = [of_row(target, contrast) for target in targets]
        lacking = dict.fromkeys((id(row[1]), one) for row, own in zip(inputs, chosen, strict=True) for one in own)
        if lacking:
            holders = {id(row[1]): cast(Passages, row[1]) for row in inputs}
            before = _of_passages(definition)
            texts = [_instructed(before, holders[holder][one]) for holder, one in lacking]
            known = dict(zip(lacking, self._tokenized(definition, texts)["input_ids"], strict=True))
        for query, row, own in zip(queries, inputs, chosen, strict=True):
            found.append({"ids": [query, *(known[id(row[1]), one] for one in own)], "passages": row[1]})
        return found

    def prepare_passages(self, texts: Sequence[str], definition: Definition) -> list[dict[str, Any]]:
        before = _of_passages(definition)
        if not texts:
            return []
        found = [
            {"ids": [ids]} for ids in self._tokenized(definition, [_instructed(before, t) for t in texts])["input_ids"]
        ]
        if not self.masked or not before:
            return found
        count = self._instruction_tokens(definition, before)
        return [{**one, "instructed": count} for one in found]

    def cut(self, inputs: Sequence[Row], definition: Definition) -> int:
        words = kind(definition.kind).per_token
        sides = (
            [[_instructed(definition.instruction, str(row[0])) for row in inputs]]
            if not words
            else [[row[0] for row in inputs]]
        )
        sides += [[str(row[1]) for row in inputs]] if definition.pair else []
        joint = definition.pair and self.pairs == "joint"
        with self._tokenizing:
            options: dict[str, Any] = {"truncation": False, "padding": False, "verbose": False}
            found = [
                self.tokenizer(*texts, is_split_into_words=words, **options)["input_ids"]
                for texts in ([sides] if joint else [[side] for side in sides])
            ]
        return sum(max(map(len, ids)) > self.max_length for ids in zip(*found, strict=True))

    def _tokenized(self, definition: Definition, *texts: Any, **options: Any) -> Any:
        """What the tokenizer makes of texts; a token that the network does not know is an error."""
        with self._tokenizing:
            coded = self.tokenizer(*texts, truncation=True, max_length=self.max_length, padding=False, **options)
        highest = max((max(ids, default=0) for ids in coded["input_ids"]), default=0)
        if self.tokens is not None and highest >= self.tokens:
            raise AllroundError(
                f"read the texts of task '{definition.name}'",
                f"the tokenizer gives {self.tokenizer.convert_ids_to_tokens(highest)!r} the number {highest}, and the "
                f"network knows {self.tokens} tokens, from 0 on",
                "use the tokenizer that the base was trained with",
            )
        return coded

    def _prepare_words(self, rows: list[list[str]], definition: Definition) -> list[dict[str, Any]]:
        coded = self._tokenized(definition, rows, is_split_into_words=True)
        prepared = []
        for i, words in enumerate(rows):
            first: dict[int, int] = {}
            for position, word in enumerate(coded.word_ids(i)):
                if word is not None:
                    first.setdefault(word, position)
            prepared.append({"ids": [coded["input_ids"][i]], "words": [first.get(w, -1) for w in range(len(words))]})
        return prepared

    def length(self, prepared: Any) -> int:
        return max(len(ids) for ids in prepared["ids"])

    def collate(self, prepared: Sequence[Any], definition: Definition, targets: Encoded | None = None) -> Batch:
        ranked = kind(definition.kind).ranked
        sides = len(prepared[0]["ids"])
        sequences = (
            [ids for p in prepared for ids in p["ids"]]
            if ranked
            else [p["ids"][side] for side in range(sides) for p in prepared]
        )
        width = max(len(s) for s in sequences)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(sequences), width), pad, dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        tensors = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.tokenizer.model_input_names:
            tensors["token_type_ids"] = torch.zeros_like(ids)
            for row, one in enumerate(prepared):
                if one.get("types") is not None:
                    tensors["token_type_ids"][row, : len(one["types"])] = torch.tensor(one["types"])
        if any(name in p for p in prepared for name in ("instructed", "passages_instructed")):
            counts = [
                [p.get("instructed", 0), *[p.get("passages_instructed", 0)] * (len(p["ids"]) - 1)] for p in prepared
            ]
            by_row = ranked or sides == 1  # the two texts of pairs stand in two blocks
            found = (
                [n for own in counts for n in own] if by_row else [own[side] for side in range(sides) for own in counts]
            )
            tensors["instructed"] = torch.tensor(found)
        lengths: tuple[int, ...] = ()
        if ranked and len(sequences) > len(prepared):  # queries with passages
            lengths = tuple(len(p["ids"]) for p in prepared)
        if "words" in prepared[0]:
            lengths = tuple(len(p["words"]) for p in prepared)
            tensors["words"] = torch.tensor(
                [(row * width + w) if w >= 0 else -1 for row, p in enumerate(prepared) for w in p["words"]],
                dtype=torch.long,
            )
        return Batch(tensors, len(prepared), lengths)


def paired(u: Tensor, v: Tensor) -> Tensor:
    """The features of pairs whose texts have the vectors u and v, (n, d) each: (n, 4 d).

    >>> paired(torch.tensor([[1.0]]), torch.tensor([[3.0]])).tolist()
    [[1.0, 3.0, 2.0, 3.0]]
    """
    return torch.cat([u, v, (u - v).abs(), u * v], -1)


def describe_tokenizer(tokenizer: Any) -> list[Any]:
    """What a tokenizer does with a text; its vocabulary and rules by their hash."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        about = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        backend.no_truncation()  # as they were asked for in the last call; the next one sets them again
        backend.no_padding()
        about = backend.to_str()
    content = hashlib.sha256(about.encode()).hexdigest()
    return [type(tokenizer).__name__, tokenizer.truncation_side, tokenizer.model_input_names, content]


def _instructed(instruction: str | None, text: str) -> str:
    return f"{instruction} {text}" if instruction else text


def _of_passages(definition: Definition) -> str:
    """What stands before the passages of a task."""
    return definition.contrast.passage_instruction if definition.contrast is not None else ""
