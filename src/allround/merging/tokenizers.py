"""The tokenizers of models that are merged, and the one of the output."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allround.checkpoints.source import Source
from allround.checkpoints.tied import config_of
from allround.core.errors import AllroundError
from allround.core.reading import check_folder
from allround.merging.recipe import Model, Tokenizer

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

#: Files of a folder that belong to its tokenizer.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)


@dataclass
class Member:
    """One model: its tokens, how many rows its embeddings have by its configuration, and its weights."""

    model: Model
    source: Source
    vocabulary: dict[str, int]
    size: int
    #: For each row of the output: the model's own row, or -1.
    own: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def rows_of(source: Source) -> int | None:
    """How many rows a model's embeddings have, by its configuration."""
    config = config_of(source)
    for part in (config, *(p for p in config.values() if isinstance(p, dict))):
        if isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    return None


def open_tokenizers(
    named: Sequence[Model], sources: Sequence[Source], notes: list[str]
) -> list[PreTrainedTokenizerFast]:
    """The tokenizer of each model; those of models without one are the first model's."""
    opened: dict[Path, PreTrainedTokenizerFast] = {}
    first = sources[0].path
    for model, source in zip(named, sources, strict=True):
        has = any((source.path / name).is_file() for name in TOKENIZER_FILES)
        if source.path in opened:
            continue
        if has or source is sources[0]:
            opened[source.path] = open_tokenizer(source.path)
        else:
            notes.append(f"{model} has no tokenizer: it is read as having that of {named[0]}")
            opened[source.path] = opened[first]
    return [opened[source.path] for source in sources]


def open_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder."""
    asked = f"open the tokenizer of {folder}"
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise AllroundError(asked, "transformers is not installed", "pip install 'allround[text]'") from error
    if not folder.is_dir():
        raise AllroundError(asked, "it is not a folder", "give the folder of a model with its tokenizer")
    check_folder(folder, asked=asked)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever its library raises over a broken or missing tokenizer
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise AllroundError(asked, f"its library refuses it: {first}", "copy the tokenizer's files there") from error
    if not getattr(tokenizer, "is_fast", False):
        raise AllroundError(
            asked, "it is not a fast tokenizer (tokenizer.json)", "convert it: AutoTokenizer(...).save_pretrained"
        )
    return tokenizer


def output_tokenizer(
    wanted: Tokenizer, members: Sequence[Member], tokenizers: Sequence[PreTrainedTokenizerFast]
) -> PreTrainedTokenizerFast:
    """The tokenizer of the output: a new one, which may be changed and saved."""
    if isinstance(wanted.source, Model):
        match = next((t for m, t in zip(members, tokenizers, strict=True) if m.model == wanted.source), None)
        tokenizer = copy.deepcopy(match if match is not None else open_tokenizer(_folder(wanted.source)))
    else:
        tokenizer = _stripped(members[0], tokenizers[0])
        if wanted.source == "union":
            _unite(tokenizer, members, tokenizers)
    known = set(tokenizer.get_vocab())
    added = [token for token in wanted.tokens if token not in known]
    if added:
        tokenizer.add_tokens(added)
    return tokenizer


def _folder(model: Model) -> Path:
    from allround.models.base import find_folder

    return find_folder(model.path)


def _unite(
    tokenizer: PreTrainedTokenizerFast, members: Sequence[Member], tokenizers: Sequence[PreTrainedTokenizerFast]
) -> None:
    """Add the tokens of all models: the ordinary ones first, each model's by their numbers."""
    known = set(tokenizer.get_vocab())
    plain: dict[str, None] = {}
    special: dict[str, AddedToken] = {}
    for member, other in zip(members, tokenizers, strict=True):
        added = {row: about for row, about in other.added_tokens_decoder.items() if row < member.size}
        texts = {str(about.content) for about in other.added_tokens_decoder.values()}
        for token, row in sorted(member.vocabulary.items(), key=lambda item: item[1]):
            if row < member.size and token not in texts and token not in known:
                plain.setdefault(token)
        for _, about in sorted(added.items()):
            special.setdefault(str(about.content), about)
    if plain:
        tokenizer.add_tokens([token for token in plain if token not in special])
    if special:
        tokenizer.add_tokens(list(special.values()))


def _stripped(member: Member, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer without the tokens that its model has no rows for."""
    tokenizer = copy.deepcopy(tokenizer)
    unused = {token for token, row in member.vocabulary.items() if row >= member.size}
    if not unused:
        return tokenizer
    import tokenizers

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if not isinstance(model.get("vocab"), dict):
        raise AllroundError(
            f"align the vocabularies of {member.source.path} and others",
            f"its tokenizer has {len(unused)} tokens that the model has no embeddings for, and is of a kind "
            f"({model.get('type')}) that they cannot be taken from",
            "name another model's tokenizer as the source",
        )
    content["added_tokens"] = [about for about in content["added_tokens"] if about["content"] not in unused]
    model["vocab"] = {token: row for token, row in model["vocab"].items() if token not in unused}
    if "merges" in model:
        pairs = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
        model["merges"] = [merge for merge, parts in pairs if not unused & {*parts, "".join(parts)}]
    tokenizer._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    return tokenizer
