"""Which token has which row of an embedding, whichever file of a tokenizer says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.core.files import read_json
from allround.core.reading import read_bytes

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
#: Files that say which token has which number; where a folder has several, the first counts, as in transformers.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", *_SENTENCEPIECE)
#: What is added to those but the first.
_ADDED = "added_tokens.json"
#: Tokens that a vocabulary holds for others to take their place.
_SPARE = re.compile(r"\[unused\d+\]|<unused\d+>|<extra_id_\d+>|<\|?.*reserved.*\d+\|?>")


def moved_tokens(base: Path, model: Path) -> int | None:
    """How many tokens of a base have another number in a model's tokenizer, so that their rows are others'.

    A token whose number is another one's in the model counts, unless it is a spare one such as `[unused3]`. None where
    both folders have a vocabulary, and one of them is of a kind that allround does not read. Zero where one has none.

    Files of different kinds compare as well. SentencePiece numbers its own tokens, and models may shift them all to
    put others in front (XLM-R does); so, beside another kind, a shift that all ordinary tokens share does not count.
    """
    mine, theirs = ([name for name in _VOCABULARIES if (folder / name).is_file()] for folder in (base, model))
    if not mine or not theirs:
        return 0
    first = next((name for name in mine if name in theirs), None)
    if first is not None and _bytes(base, first) == _bytes(model, first):
        return 0
    across = first is None and (mine[0] in _SENTENCEPIECE) != (theirs[0] in _SENTENCEPIECE)
    one = _vocabulary(base, first or mine[0], across)
    two = _vocabulary(model, first or theirs[0], across)
    if not one or not two:
        return None
    if across:
        shifts = Counter(two[token] - row for token, row in one.items() if token in two)
        return sum(shifts.values()) - max(shifts.values(), default=0)
    words = {row: token for token, row in two.items()}
    return sum(
        two[token] != row if token in two else row in words and not _SPARE.fullmatch(token)
        for token, row in one.items()
    )


def _bytes(folder: Path, name: str) -> list[bytes]:
    names = [name] if name == _VOCABULARIES[0] else [name, _ADDED]
    return [read_bytes(folder / name) if (folder / name).is_file() else b"" for name in names]


def _vocabulary(folder: Path, name: str, plain: bool) -> dict[str, int]:
    """Token -> number of one file, and of what is added to it. plain: of SentencePiece the ordinary tokens alone."""
    path = folder / name
    if name == _VOCABULARIES[0]:
        return vocabulary_of(read_json(path))
    if path.suffix == ".json":
        found = vocabulary_of(read_json(path))
    elif path.suffix == ".txt":
        lines = _text(path).removesuffix("\n").split("\n")
        found = {token: row for row, token in enumerate(lines)}
    else:
        try:
            pieces = list(_pieces(read_bytes(path)))
        except (ValueError, IndexError):  # another format under the same name
            return {}
        found = {token: row for row, (token, kind) in enumerate(pieces) if kind == _ORDINARY or not plain}
    if (folder / _ADDED).is_file() and found and not plain:
        found |= vocabulary_of(read_json(folder / _ADDED))
    return found


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise AllroundError(
            f"read the vocabulary {path}", f"it is not UTF-8 text: {error.reason}", "copy the file again"
        ) from error


def vocabulary_of(value: Any) -> dict[str, int]:
    """Token -> number of a tokenizer.json, vocab.json or added_tokens.json; empty where it is none of them.

    >>> vocabulary_of({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "[X]", "id": 2}]})
    {'a': 0, 'b': 1, '[X]': 2}
    """
    if not isinstance(value, dict):
        return {}
    model = value.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None if "added_tokens" in value else value
    if isinstance(vocab, list):
        vocab = {str(entry[0]): n for n, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    found = {token: row for token, row in vocab.items() if type(row) is int} if isinstance(vocab, dict) else {}
    added = value.get("added_tokens") if isinstance(model, dict) else None
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int:
            found[str(token.get("content"))] = token["id"]
    return found


#: How SentencePiece marks an ordinary token; others are control tokens, bytes and the like.
_ORDINARY = 1


def _pieces(data: bytes) -> Iterator[tuple[str, int]]:
    """Token and kind, by number, of a model of SentencePiece: a protocol buffer whose field 1 repeats, and holds the
    text as its own field 1 and the kind as field 3. Errors: a ValueError or IndexError where it is none."""
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            parts = dict(_fields(value))
            token, kind = parts.get(1), parts.get(3, _ORDINARY)
            if not isinstance(token, bytes) or not isinstance(kind, int):
                raise ValueError("no token")
            yield token.decode("utf-8"), kind


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: number, and value."""
    place = 0
    while place < len(data):
        tag, place = _number(data, place)
        kind = tag & 7
        if kind == 0:
            value, place = _number(data, place)
            yield tag >> 3, value
            continue
        length, place = _number(data, place) if kind == 2 else ({1: 8, 5: 4}[kind] if kind in (1, 5) else -1, place)
        if length < 0 or place + length > len(data):
            raise ValueError("it is cut short, or no protocol buffer")
        yield tag >> 3, data[place : place + length]
        place += length


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number is too long")
