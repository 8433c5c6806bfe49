"""Which token has which row: permuted vocabularies are found whichever files hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from allround.checkpoints.tokens import moved_tokens
from allround.core.errors import AllroundError
from allround.merging.layout import make_plan
from allround.merging.recipe import Model, Recipe

WORDS = ("<unk>", "the", "cat", "sat", "[unused0]")


def message(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer; all lengths here are below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def sentencepiece(words: Sequence[str]) -> bytes:
    """The pieces with a score each (a float, field 2) and a kind where they are special, and settings after them."""
    pieces = b""
    for word in words:
        special = message(3, 3 if word.startswith("<") else 1) if word != "cat" else b""  # ordinary where it is unsaid
        pieces += message(1, message(1, word.encode()) + b"\x15\x00\x00\x80\xbf" + special)
    return pieces + message(2, message(3, 7))


def as_dict(words: Sequence[str]) -> dict[str, int]:
    return {word: row for row, word in enumerate(words)}


FILES: dict[str, Callable[[Sequence[str]], bytes]] = {
    "tokenizer.json": lambda words: json.dumps({"model": {"type": "WordLevel", "vocab": as_dict(words)}}).encode(),
    "vocab.txt": lambda words: "".join(f"{word}\n" for word in words).encode(),
    "vocab.json": lambda words: json.dumps(as_dict(words)).encode(),
    "tokenizer.model": sentencepiece,
    "spiece.model": sentencepiece,
    "sentencepiece.bpe.model": sentencepiece,
}


def folder(path: Path, words: Sequence[str], *files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name in files:
        (path / name).write_bytes(FILES[name](words))
    return path


SWAPPED = ("<unk>", "cat", "the", "sat", "[unused0]")


@pytest.mark.parametrize("file", FILES)
def test_a_permuted_vocabulary_is_refused_whichever_file_holds_it(tmp_path: Path, file: str) -> None:
    base, model = folder(tmp_path / "base", WORDS, file), folder(tmp_path / "model", SWAPPED, file)
    assert moved_tokens(base, model) == 2
    for path in (base, model):
        save_file({"embed_tokens.weight": torch.ones(5, 2), "w": torch.ones(2)}, path / "model.safetensors")
    with pytest.raises(AllroundError, match="2 tokens have other numbers in its tokenizer"):
        make_plan(Recipe("average", (Model(str(model)),), Model(str(base))))
    folder(model, WORDS, file)
    assert make_plan(Recipe("average", (Model(str(model)),), Model(str(base)))).notes == []


@pytest.mark.parametrize("mine", FILES)
@pytest.mark.parametrize("theirs", FILES)
def test_files_of_different_kinds_compare(tmp_path: Path, mine: str, theirs: str) -> None:
    base = folder(tmp_path / "base", WORDS, mine)
    assert moved_tokens(base, folder(tmp_path / "same", WORDS, theirs)) == 0
    assert moved_tokens(base, folder(tmp_path / "swapped", SWAPPED, theirs)) == 2


def test_the_first_file_that_both_have_counts(tmp_path: Path) -> None:
    """A stale file beside the one that is used changes nothing."""
    base = folder(tmp_path / "base", WORDS, "tokenizer.json", "vocab.txt")
    model = folder(tmp_path / "model", SWAPPED, "vocab.txt")
    assert moved_tokens(base, model) == 2
    assert moved_tokens(base, folder(model, WORDS, "tokenizer.json")) == 0


def test_sentencepiece_beside_numbers_that_are_shifted(tmp_path: Path) -> None:
    """As those of XLM-R, which has a token more in front of the ordinary ones."""
    base = folder(tmp_path / "base", ("<s>", "<pad>", "</s>", "<unk>", "the", "cat", "sat"), "tokenizer.json")
    model = folder(tmp_path / "model", ("<unk>", "<s>", "</s>", "the", "cat", "sat"), "sentencepiece.bpe.model")
    assert moved_tokens(base, model) == 0
    folder(model, ("<unk>", "<s>", "</s>", "cat", "the", "sat"), "sentencepiece.bpe.model")
    assert moved_tokens(base, model) == 2


def test_other_words_at_the_same_rows(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", WORDS, "vocab.txt")
    assert moved_tokens(base, folder(tmp_path / "one", ("<unk>", "le", "chat", "sat", "[unused0]"), "vocab.txt")) == 2
    spare = ("<unk>", "the", "cat", "sat", "[DOMAIN]", "more")
    assert moved_tokens(base, folder(tmp_path / "two", spare, "vocab.txt")) == 0


def test_added_tokens_count(tmp_path: Path) -> None:
    base, model = (folder(tmp_path / name, WORDS, "vocab.json") for name in ("base", "model"))
    (base / "added_tokens.json").write_text(json.dumps({"[A]": 5, "[B]": 6}))
    assert moved_tokens(base, model) == 0  # it has none, and no rows for them
    (model / "added_tokens.json").write_text(json.dumps({"[A]": 6, "[B]": 5}))
    assert moved_tokens(base, model) == 2


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    base, model = (folder(tmp_path / name, WORDS, "tokenizer.model") for name in ("base", "model"))
    (model / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # as those of tiktoken
    assert moved_tokens(base, model) is None
    for path in (base, model):
        save_file({"embed_tokens.weight": torch.ones(5, 2)}, path / "model.safetensors")
    (note,) = make_plan(Recipe("average", (Model(str(model)),), Model(str(base)))).notes
    assert "is not known, as their tokenizers differ" in note


@pytest.mark.parametrize("end", range(1, 30, 4))
def test_a_vocabulary_that_is_cut_short(tmp_path: Path, end: int) -> None:
    base, model = (folder(tmp_path / name, WORDS, "spiece.model") for name in ("base", "model"))
    (model / "spiece.model").write_bytes(sentencepiece(WORDS)[:end])
    assert moved_tokens(base, model) in (None, 0)
    (model / "spiece.model").unlink()
    (model / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(AllroundError, match="not UTF-8"):
        moved_tokens(base, model)
