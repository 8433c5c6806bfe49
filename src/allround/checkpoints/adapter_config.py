"""The settings of an adapter of PEFT, read strictly: what is not an exact change of weights is refused by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from allround.core.errors import AllroundError
from allround.core.files import read_settings

CONFIG = "adapter_config.json"
#: A longer file is not a configuration.
_LONGEST = 16_000_000

#: Settings that say how an adapter was trained, or that are read below.
_KNOWN = (
    *("peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type"),
    *("inference_mode", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"),
    *("fan_in_fan_out", "bias", "modules_to_save", "target_modules", "exclude_modules", "target_parameters"),
    *("layers_to_transform", "layers_pattern", "lora_dropout", "init_lora_weights", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "megatron_core", "qalora_group_size", "runtime_config"),
    "ensure_weight_tying",
)
#: Settings under which an adapter is something else than a low-rank change of the base's weights, and what.
_REFUSED = {
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "it replaces single rows of the embedding",
    "alora_invocation_tokens": "an activated LoRA works on some tokens only",
    "arrow_config": "it routes between adapters token by token",
    "kasa_config": "it changes the base's weights when it is loaded",
    "megatron_config": "its layers are split between machines",
    "monteclora_config": "it adds random changes",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "it averages its inputs in groups",
    "velora_config": "it holds more than two factors",
}
#: What `init_lora_weights` may begin with when the adapter is meant for other weights than the base's own.
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
#: Kinds that change no weights, so that nothing could be merged.
_WEIGHTLESS = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"),
    *("XLORA", "POLY"),
)
MATERIALISE = (
    "let PEFT make a model of it, and give that folder: "
    "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)"
)
REWRITE = "save it again with PEFT: model.save_pretrained(folder)"


def is_adapter(path: Path | str) -> bool:
    """Whether a folder holds an adapter of PEFT."""
    return (Path(path) / CONFIG).is_file()


class AdapterConfig:
    """The settings of an adapter in a folder, each checked when it is asked for.

    Errors: a configuration that is broken, and kinds and settings that are not an exact change of weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._values = self._read()
        self._check_kind()

    def error(self, found: str, do: str) -> AllroundError:
        """An error that names the folder. do: what the user can do."""
        return AllroundError(f"read the adapter in {self.folder}", found, do)

    def _wrong(self, key: str, wanted: str) -> AllroundError:
        if key not in self._values:
            return self.error(f"its {CONFIG} lacks '{key}'", REWRITE)
        value = repr(self._values[key])
        return self.error(f"'{key}' in its {CONFIG} must be {wanted}, not {value[:60]}", REWRITE)

    def _read(self) -> dict[str, object]:
        file = self.folder / CONFIG
        if not file.is_file():
            raise self.error(f"the folder holds no {CONFIG}", "give a folder that PEFT's save_pretrained wrote")
        if file.stat().st_size > _LONGEST:
            raise self.error(f"its {CONFIG} is {file.stat().st_size} bytes long", REWRITE)
        config = read_settings(file)
        if not isinstance(config, dict):
            raise self.error(f"its {CONFIG} holds no settings", REWRITE)
        return config

    def _check_kind(self) -> None:
        kind = self._values.get("peft_type")
        if not isinstance(kind, str):
            raise self._wrong("peft_type", "the name of a kind, such as 'LORA'")
        if kind in _WEIGHTLESS:
            raise self.error(
                f"it is of the kind {kind}, which changes no weights of the base", "merge adapters of the kind LORA"
            )
        if kind != "LORA":
            raise self.error(f"it is of the kind {kind[:40]}, and allround reads LORA", MATERIALISE)
        for key, value in self._values.items():
            if value in (None, False) or value in ([], {}, "") or key in _KNOWN:
                continue
            reason = _REFUSED.get(key, "allround does not know this setting")
            raise self.error(f"it sets '{key[:60]}': {reason}", MATERIALISE)
        start = self._values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_OTHER_BASE):
            raise self.error(
                f"it was begun with init_lora_weights='{start[:40]}', so it may not be a change of the base as it is",
                "convert it when it is saved: save_pretrained(folder, path_initial_model_for_weight_conversion=...); "
                f"or {MATERIALISE}",
            )

    def flag(self, key: str) -> bool:
        """A setting that is true or false; false where it is not there."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return bool(value)

    def text(self, key: str) -> str | None:
        """A setting that is a text."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A setting that is a list of names."""
        value = self._values.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(n, str) and n for n in value)):
            raise self._wrong(key, "a list of names")
        return tuple(value or ())

    def count(self, key: str) -> int:
        """A setting that is a whole number above 0."""
        return self._count(self._values.get(key), key)

    def number(self, key: str) -> float:
        """A setting that is a finite number."""
        return self._number(self._values.get(key), key)

    def counts(self, key: str) -> list[tuple[re.Pattern[str], int]]:
        """A table of whole numbers by patterns of layers."""
        return [(self._pattern(text), self._count(value, key)) for text, value in self._table(key)]

    def numbers(self, key: str) -> list[tuple[re.Pattern[str], float]]:
        """A table of numbers by patterns of layers."""
        return [(self._pattern(text), self._number(value, key)) for text, value in self._table(key)]

    def check_choice(self, key: str, choices: Sequence[str]) -> None:
        """An error where a setting is there, and is none of these."""
        if self._values.get(key) not in (None, *choices):
            *others, last = map(repr, choices)
            raise self._wrong(key, f"{', '.join(others)} or {last}")

    def _table(self, key: str) -> list[tuple[str, object]]:
        value = self._values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, "a table of patterns and numbers")
        return list((value or {}).items())

    def _count(self, value: object, key: str) -> int:
        if type(value) is not int or value < 1:
            raise self._wrong(key, "a whole number above 0")
        return value

    def _number(self, value: object, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise self._wrong(key, "a finite number")
        return float(value)

    def _pattern(self, text: str) -> re.Pattern[str]:
        """A pattern of layers, as PEFT takes it. Those that could take forever to compare are refused."""
        hungry = len(re.findall(r"(?<![\\(])[*+{?]", text))
        groups = len(re.findall(r"(?<!\\)\(", text))
        if len(text) > 1000 or hungry > 3 or groups > 3 or re.search(r"\)\s*[*+{]", text):
            raise self.error(f"the pattern of layers {text[:60]!r} is too complex", "name the layers one by one")
        try:
            return re.compile(rf"(.*\.)?({text})$")
        except (re.error, RecursionError, OverflowError):
            raise self.error(f"{text[:60]!r} is not a pattern of layers", REWRITE) from None
