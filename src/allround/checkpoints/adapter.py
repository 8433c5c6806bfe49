"""An adapter of PEFT on disk: its settings, and which of its tensors are for which of the model."""

from __future__ import annotations

import math
import re
from pathlib import Path

from allround.checkpoints.adapter_config import CONFIG, MATERIALISE, REWRITE, AdapterConfig
from allround.checkpoints.header import FLOATS
from allround.checkpoints.low_rank import LowRank
from allround.checkpoints.weights import Weights

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_FACTOR = re.compile(
    r"(?P<module>.+?)\.(?:(?P<a>lora_A\.weight|lora_embedding_A)|(?P<b>lora_B\.weight|lora_embedding_B)"
    r"|(?P<bias>lora_B\.bias)|(?P<magnitude>lora_magnitude_vector(?:\.weight)?))"
)


class Adapter:
    """An adapter on disk: its settings, checked, and where its tensors are. Reads the header of its weights only.

    low_rank: module -> factors. full: tensor of the model -> tensor of the adapter that takes its place.
    Errors: a configuration that is broken, kinds and settings that are not an exact change of weights, ranks other than
    those of the configuration, tensors of an unknown kind.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = config = AdapterConfig(self.path)
        self.base_name = config.text("base_model_name_or_path")
        self.flipped = config.flag("fan_in_fan_out")
        self._rank = config.count("r")
        self._alpha = config.number("lora_alpha")
        self._ranks = config.counts("rank_pattern")
        self._alphas = config.numbers("alpha_pattern")
        self.saved = config.names("modules_to_save")
        self.tied = config.flag("ensure_weight_tying")
        self._parameters = config.names("target_parameters")
        config.check_choice("bias", ("none", "all", "lora_only"))
        file = next((self.path / name for name in _FILES if (self.path / name).is_file()), None)
        if file is None:
            raise config.error(f"there is a {CONFIG}, and no {_FILES[0]}", "copy the adapter's weights as well")
        self.weights = Weights(file, pickles=True)
        self.low_rank: dict[str, LowRank] = {}
        self.full: dict[str, str] = {}
        self._sort()

    @property
    def files(self) -> list[Path]:
        return [self.path / CONFIG, *self.weights.files]

    @property
    def names(self) -> list[str]:
        """The tensors of the model that it changes."""
        return [*(part.tensor(module) for module, part in self.low_rank.items()), *self.full]

    def _sort(self) -> None:
        """Take the tensors of the file apart."""
        config = self.config
        parts: dict[str, dict[str, str]] = {}
        for key in self.weights:
            name = key.removeprefix("base_model.model.")
            match = _FACTOR.fullmatch(name)
            if match is not None:
                found = parts.setdefault(match["module"], {})
                self._once(found, match.lastgroup or "", key)
            elif re.search(r"(^|\.)lora_", name):
                raise config.error(f"it holds '{key}', which is not a part of a LoRA that allround knows", MATERIALISE)
            elif "original_module" not in name.split("."):  # a copy of the base's that PEFT does not use
                clean = ".".join(part for part in name.split(".") if part not in ("base_layer", "modules_to_save"))
                self._once(self.full, clean, key)  # PEFT writes some twice: all biases, and modules that it saves
        whose: dict[str, str] = {}
        for module, found in parts.items():
            factors = self._factors(module, found)
            self._once(whose, _plain(module), factors.a)
            self.low_rank[_plain(module)] = factors
        if not parts and not self.full:
            raise config.error("it holds no tensors", REWRITE)

    def _once(self, places: dict[str, str], place: str, key: str) -> None:
        """Put a tensor of the file into its place. Errors: another is there, and has other values."""
        config = self.config
        if place in places and not self._same(places[place], key):
            raise config.error(f"'{places[place]}' and '{key}' are for the same tensor of the model", REWRITE)
        places[place] = key

    def _same(self, one: str, other: str) -> bool:
        import torch

        alike = self.weights.dtype(one) == self.weights.dtype(other)
        return alike and torch.equal(self.weights.get(one), self.weights.get(other))

    def _factors(self, module: str, found: dict[str, str]) -> LowRank:
        config = self.config
        if not {"a", "b"} <= set(found):
            raise config.error(f"one of the two factors of '{module}' is missing", "copy or save the adapter again")
        dora = config.flag("use_dora")
        if dora != ("magnitude" in found):
            have = "has a magnitude, and use_dora is not set" if not dora else "has no magnitude, and use_dora is set"
            raise config.error(f"'{module}' {have}", REWRITE)
        if "bias" in found and not config.flag("lora_bias"):
            raise config.error(f"'{module}' has a LoRA bias, and lora_bias is not set", REWRITE)
        if module.endswith(".base_layer.out_proj"):
            raise config.error("it adapts torch's MultiheadAttention, where PEFT counts the change of the output "
                              "projection twice", MATERIALISE)  # fmt: skip
        parameter = self._parameter(module)
        # PEFT looks patterns up by the name of the module that it replaced, or of the parameter.
        layer = module + (f".{parameter}" if parameter else "")
        rank = next((value for pattern, value in self._ranks if pattern.match(layer)), self._rank)
        alpha = next((value for pattern, value in self._alphas if pattern.match(layer)), self._alpha)
        a, b = self.weights.shape(found["a"]), self.weights.shape(found["b"])
        experts = a[0] // rank if parameter and len(a) == 2 else 1
        if len(a) == len(b) > 2 and b[1] != a[0] == rank:
            raise config.error(
                f"'{module}' is a convolution in groups, whose LoRA cannot be written as a change of its weight",
                "leave this adapter out; PEFT cannot merge it either",
            )
        if len(a) < 2 or len(b) != len(a) or a[0] != b[1] or a[0] != rank * experts or not experts:
            raise config.error(
                f"the factors of '{module}' have the shapes {a} and {b}, and its configuration says rank {rank}",
                "restore the adapter_config.json that it was saved with",
            )
        if any(self.weights.dtype(key) not in FLOATS for key in found.values()):
            raise config.error(f"the factors of '{module}' are not floating point", "save the adapter in float32")
        return LowRank(
            found["a"],
            found["b"],
            rank,
            alpha / (math.sqrt(rank) if config.flag("use_rslora") else rank),
            found.get("bias"),
            found.get("magnitude"),
            parameter,
            "lora_embedding_A" in found["a"],
            experts,
        )

    def _parameter(self, module: str) -> str | None:
        """The parameter of a module that is adapted, where it is not its weight."""
        config = self.config
        found = []
        for target in self._parameters:
            owner, _, name = target.rpartition(".")
            if not owner:
                raise config.error(f"'{target}' in target_parameters does not say of which module", MATERIALISE)
            if f".{_plain(module)}".endswith(f".{owner}"):
                found.append(name)
        if len(found) > 1 or (found and module.endswith(".base_layer")):
            raise config.error(
                f"several parameters of '{module}' are adapted, and the file does not say which factors are whose",
                MATERIALISE,
            )
        return found[0] if found else None


def _plain(module: str) -> str:
    return ".".join(part for part in module.split(".") if part != "base_layer")
