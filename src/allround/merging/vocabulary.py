"""Models with different vocabularies: their embeddings by the rows of one tokenizer, which the output takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT
from allround.core.errors import AllroundError
from allround.core.words import plural
from allround.merging.finish import Configure, SaveTokenizer, SetTemplate
from allround.merging.names import Names
from allround.merging.recipe import Model, Recipe, Token, Tokenizer
from allround.merging.templates import chosen_template
from allround.merging.tokenizers import Member, open_tokenizers, output_tokenizer, rows_of
from allround.merging.vocabulary_view import Table, VocabularyView

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def prepare(
    recipe: Recipe,
    base: Source | None,
    models: list[Source],
    finish: list[Callable[[Path], None]],
    notes: list[str],
) -> tuple[Source | None, list[Source]]:
    """The base and the models as they are merged: by one vocabulary, where the recipe says so.

    finish: gets what is to be done to the output folder: configuration, tokenizer, chat template.
    """
    config = dict(recipe.config)
    everyone = [base, *models] if base is not None else models
    if recipe.dtype:
        config.setdefault("dtype", str(torch_dtype(recipe.dtype)).removeprefix("torch."))
    save: list[Callable[[Path], None]] = []
    if recipe.tokenizer:
        named = [*([recipe.base] if recipe.base else []), *recipe.models]
        everyone, tokenizer, rows = align(recipe.tokenizer, named, everyone, base is not None, notes)
        config["vocab_size"] = rows
        save.append(SaveTokenizer(tokenizer))
    if recipe.chat_template:
        save.append(SetTemplate(chosen_template(recipe.chat_template, everyone)))
    finish.extend([*([Configure(config)] if config else []), *save])
    return (everyone[0], everyone[1:]) if base is not None else (None, everyone)


def align(
    wanted: Tokenizer, named: Sequence[Model], sources: Sequence[Source], has_base: bool, notes: list[str]
) -> tuple[list[Source], PreTrainedTokenizerFast, int]:
    """The sources (the base first, if there is one) by the rows of one tokenizer, that tokenizer, and its rows."""
    tokenizers = open_tokenizers(named, sources, notes)
    members = []
    for model, source, tokenizer in zip(named, sources, tokenizers, strict=True):
        vocabulary = tokenizer.get_vocab()
        members.append(Member(model, source, vocabulary, rows_of(source) or len(vocabulary)))
    tokenizer = output_tokenizer(wanted, members, tokenizers)
    vocabulary = tokenizer.get_vocab()
    filled = max(len(vocabulary), max(vocabulary.values(), default=-1) + 1)
    step = wanted.multiple_of or 1
    rows = -(-filled // step) * step
    for member in members:
        padding = member.size - 1 - max((row for row in member.vocabulary.values() if row < member.size), default=-1)
        if padding > 0:
            cut = plural(padding, "row")
            notes.append(
                f"{member.model}: the last {cut} of its {member.size} for tokens belong to no token; "
                f"the merged model has {rows}, without them"
            )
        member.own = np.full(rows, -1, np.int64)
        for token, row in vocabulary.items():
            there = member.vocabulary.get(token, -1)
            member.own[row] = there if there < member.size else -1
    if wanted.prefer is not None:
        preferred = next((n for n, model in enumerate(named) if model == wanted.prefer), None)
    else:
        preferred = 0 if has_base else None
    aligned = [VocabularyView(member.source) for member in members]
    first = members[0]
    names = [Names(sources[0] if n else None, member.source) for n, member in enumerate(members)]
    for name in first.source:
        shape = first.source.shape(name) if first.source.dtype(name) in FLOATS else ()
        if (EMBEDDING.search(name) or OUTPUT.search(name)) and shape[:1] == (first.size,):
            _align_tensor(name, wanted, members, names, aligned, vocabulary, filled, rows, preferred)
    return list(aligned), tokenizer, rows


def _align_tensor(
    name: str,
    wanted: Tokenizer,
    members: Sequence[Member],
    names: Sequence[Names],
    aligned: Sequence[VocabularyView],
    vocabulary: Mapping[str, int],
    filled: int,
    rows: int,
    preferred: int | None,
) -> None:
    there = [(n, found) for n in range(len(members)) if (found := names[n].find(name)) is not None]
    width = members[0].source.shape(name)[1:]
    for n, found in there:
        source, other = members[n].source, members[n].source.shape(found)
        if other[1:] != width or source.dtype(found) not in FLOATS:
            raise AllroundError(
                f"align the vocabularies of '{name}'",
                f"{source.path} has {source.dtype(found)} {other}, and {members[0].source.path} has "
                f"{members[0].source.dtype(name)} {members[0].source.shape(name)}",
                "merge models of one width, with floating-point weights",
            )
    own = [np.where(members[n].own < members[n].source.shape(found)[0], members[n].own, -1) for n, found in there]
    donors = [(copy.copy(members[n].source), found) for n, found in there]
    lacking = np.flatnonzero(np.stack(own)[:, :filled].min(0) < 0).tolist()
    words = {row: token for token, row in vocabulary.items()}
    forced = [row for row in range(filled) if row in words and _token(wanted, words[row]).force]
    others: dict[int, tuple[tuple[Source, str, int], ...]] = {}
    for row in sorted({*lacking, *forced}):
        if row not in words:  # a hole between the tokens
            others[row] = ()
            continue
        about = _token(wanted, words[row])
        if about.zero:
            others[row] = ()
        elif about.source is not None:
            place = next((p for p, (n, _) in enumerate(there) if members[n].model == about.source), None)
            others[row] = (_row_of(words[row], about, members, there, own, donors, row, place),)
        else:
            owners = [p for p in range(len(there)) if own[p][row] >= 0]
            owners = [p for p in owners if there[p][0] == preferred] or owners
            others[row] = tuple((*donors[p], int(own[p][row])) for p in owners)
    for place, (n, found) in enumerate(there):
        mine = own[place].copy()
        mine[forced] = -1
        # A tied model has one tensor for two of the reference: the second under the name it has there.
        shown = name if OUTPUT.search(name) and EMBEDDING.search(found) else found
        dtype = members[n].source.dtype(found)
        aligned[n].tables[shown] = Table(found, dtype, (rows, *width), mine, others, filled)


def _token(wanted: Tokenizer, token: str) -> Token:
    return wanted.tokens.get(token, _PLAIN)


_PLAIN = Token()


def _row_of(
    token: str,
    about: Token,
    members: Sequence[Member],
    there: Sequence[tuple[int, str]],
    own: Sequence[np.ndarray],
    donors: Sequence[tuple[Source, str]],
    row: int,
    place: int | None,
) -> tuple[Source, str, int]:
    asked = f"give the token {token!r} the embedding of {about.source}"
    if place is None:
        raise AllroundError(asked, "that model is not merged, or has no such weights", "name one of the merged models")
    member = members[there[place][0]]
    if about.token is None:
        found = int(own[place][row])
    elif isinstance(about.token, str):
        found = member.vocabulary.get(about.token, -1)
    else:
        found = about.token
    if not 0 <= found < member.source.shape(there[place][1])[0]:
        raise AllroundError(
            asked, f"it has no token {about.token if about.token is not None else token!r}", "name a token that it has"
        )
    return (*donors[place], found)
