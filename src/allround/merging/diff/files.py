"""How the files beside the weights differ: settings and tokenizers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from allround.checkpoints.source import Source
from allround.checkpoints.tokens import vocabulary_of
from allround.core.errors import AllroundError
from allround.core.files import read_json
from allround.core.reading import read_bytes
from allround.merging.diff.matching import Unlike

_TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")
#: Settings that say where a model was saved, not what it is.
_IDLE = ("_name_or_path", "transformers_version", "__version__", "is_local", "local_files_only")


def compare_files(base: Source, models: Sequence[Source]) -> Iterator[Unlike]:
    """Settings and tokenizer files that differ, where base and model are folders."""
    root = _root(base)
    if root is None:
        return
    for file in sorted(root.rglob("*.json")):
        if "config" not in file.name or file.stat().st_size > 1 << 20:
            continue
        relative = file.relative_to(root).as_posix()
        settings = dict(_flat(_read(file)))
        theirs = {
            number: dict(_flat(_read(path / relative)))
            for number, model in enumerate(models)
            if (path := _root(model)) is not None and (path / relative).is_file()
        }
        for key in dict.fromkeys([*settings, *(k for t in theirs.values() for k in t)]):
            other = {n: t.get(key) for n, t in theirs.items() if t.get(key) != settings.get(key)}
            if other and key.split(".")[-1] not in _IDLE:
                yield Unlike("setting", f"{relative}: {key}", other, settings.get(key))
    for name in _TOKENIZER:
        differ: dict[int, str | None] = {}
        for number, model in enumerate(models):
            path = _root(model)
            if path is None or not (path / "config.json").is_file() or not (root / name).is_file():
                continue
            words = _tokens_differ(root / name, path / name)
            if words:
                differ[number] = words
        if differ:
            yield Unlike("tokenizer", name, differ)


def _root(source: Source) -> Path | None:
    return source.path if source.path.is_dir() else None


def _read(path: Path) -> object:
    try:
        return read_json(path)
    except AllroundError:
        return "not readable as JSON"


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A configuration as dotted keys and short texts."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > 80:
        text = f"{text[:60]}... ({len(text)} letters, {zlib.crc32(text.encode()):08x})"
    yield prefix or "(all)", text


def _tokens_differ(mine: Path, other: Path) -> str | None:
    """How two files of a tokenizer differ, in words; None where they say the same."""
    if not other.is_file():
        return "not there"
    if read_bytes(mine) == read_bytes(other):
        return None
    if mine.suffix != ".json":
        return "other content"
    first, second = _read(mine), _read(other)
    if first == second:
        return None
    one, two = vocabulary_of(first), vocabulary_of(second)
    if not one or not two:
        return "other content"
    added, gone = len(two.keys() - one.keys()), len(one.keys() - two.keys())
    moved = sum(two[token] != place for token, place in one.items() if token in two)
    words = [f"{n:,} tokens {what}" for n, what in ((added, "more"), (gone, "fewer"), (moved, "at other ids")) if n]
    return ", ".join(words) or "the same tokens, other settings"
