"""The base that a model's own files name: configurations, adapters and model cards say what a model was tuned from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.files import read_settings
from allround.core.reading import read_bytes

#: The line of a model card that names the base, alone or first of a list.
_CARD = re.compile(r"^base_model:[ \t]*(?:\n-[ \t]*)?([^\s#][^\n]*)$", re.MULTILINE)
#: Keys that name it, by file.
_KEYS = (("adapter_config.json", "base_model_name_or_path"), ("config.json", "_name_or_path"))


@dataclass(frozen=True)
class NamedBase:
    """A base, and the file that names it."""

    base: str
    file: Path

    def __str__(self) -> str:
        return f"'{self.base}' (in {self.file})"


def named_base(model: str | Path) -> NamedBase | None:
    """The base that the files of a model folder name; None where they name none but the folder itself."""
    folder = Path(model)
    for name, key in _KEYS:
        settings = read_settings(folder / name) if (folder / name).is_file() else None
        base = settings.get(key) if isinstance(settings, dict) else None
        if isinstance(base, str) and base and not _same(base, folder):
            return NamedBase(base, folder / name)
    card = folder / "README.md"
    if card.is_file():
        try:
            text = read_bytes(card).decode("utf-8", "replace")
        except AllroundError:  # a card says nothing that a merge needs
            return None
        head = text.split("\n---", 1)[0] if text.startswith("---") else ""
        found = _CARD.search(head)
        base = found[1].strip().strip("'\"") if found else ""
        if base and not _same(base, folder):
            return NamedBase(base, card)
    return None


def base_hint(models: Iterable[str | Path]) -> str:
    """What the files of models say of their base, as the end of a sentence; empty where they say nothing.

    >>> base_hint(["no-such-folder"])
    ''
    """
    named = {one.base: one for model in models if (one := named_base(model)) is not None}
    return f"; their files name the base {' and '.join(map(str, named.values()))}" if named else ""


def _same(base: str, folder: Path) -> bool:
    return Path(base).expanduser().absolute() == folder.absolute()
