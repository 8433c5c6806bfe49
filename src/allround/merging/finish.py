"""What is done to the output folder of a merge in the end: its configuration, tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allround.checkpoints.tied import TIE
from allround.core.files import read_settings, write_json
from allround.merging.templates import TEMPLATE_FILE
from allround.merging.tokenizers import TOKENIZER_FILES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Keys of a configuration that are set in all its parts, by all the names that they have.
_EVERYWHERE = {"dtype": ("dtype", "torch_dtype"), TIE: (TIE,)}


@dataclass(frozen=True)
class Configure:
    """Sets values in the output's config.json: a `key` where it is found first, `part.key` there, `dtype` and
    `tie_word_embeddings` in all."""

    values: Mapping[str, object]

    def __call__(self, folder: Path) -> None:
        path = folder / "config.json"
        config = read_settings(path) if path.is_file() else None
        if not isinstance(config, dict):
            return
        for key, value in self.values.items():
            self._set(config, key, value)
        write_json(path, config, allow_nan=True)

    def _set(self, config: dict[str, object], key: str, value: object) -> None:
        parts = [part for part in config.values() if isinstance(part, dict)]
        if key in _EVERYWHERE:
            holders = [(part, name) for part in (config, *parts) for name in _EVERYWHERE[key] if name in part]
            key = _EVERYWHERE[key][-1]
        elif "." in key:
            name, key = key.split(".", 1)
            part = config.get(name)
            holders = [(part, key)] if isinstance(part, dict) else [({}, key)]
        else:
            holders = [(part, key) for part in (config, *parts) if key in part][:1]
        for holder, name in holders or [(config, key)]:
            holder[name] = value


@dataclass(frozen=True)
class SaveTokenizer:
    """Puts a tokenizer into the output, in place of the base's."""

    tokenizer: PreTrainedTokenizerFast

    def __call__(self, folder: Path) -> None:
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class SetTemplate:
    """Puts a chat template into the output."""

    template: str | None

    def __call__(self, folder: Path) -> None:
        if self.template is None:
            return
        (folder / TEMPLATE_FILE).write_text(self.template, encoding="utf-8")
        path = folder / "tokenizer_config.json"
        config = read_settings(path) if path.is_file() else None
        if isinstance(config, dict) and config.pop("chat_template", None) is not None:
            write_json(path, config, allow_nan=True)
