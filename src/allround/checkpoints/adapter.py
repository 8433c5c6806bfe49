"""Adapters of PEFT as changes of weights, computed stretch by stretch: no model with the adapter in it is ever written.

Exact for LoRA and rsLoRA on linear, embedding and (ungrouped) convolution layers, with ranks and alphas per layer, DoRA
on all of these, biases, `lora_bias`, `modules_to_save`, and one parameter per module of `target_parameters`. Every
other kind is refused by name. The reference is `merge_and_unload()` of PEFT in float32.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT, Untied, config_of, twins_of
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import read_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
#: A configuration longer than this is none.
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
_MATERIALISE = (
    "let PEFT make a model of it, and give that folder: "
    "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)"
)
_REWRITE = "save it again with PEFT: model.save_pretrained(folder)"
_FACTOR = re.compile(
    r"(?P<module>.+?)\.(?:(?P<a>lora_A\.weight|lora_embedding_A)|(?P<b>lora_B\.weight|lora_embedding_B)"
    r"|(?P<bias>lora_B\.bias)|(?P<magnitude>lora_magnitude_vector(?:\.weight)?))"
)
_FOLDER = re.compile(r"(\d+)_\w+/")
#: Architectures that hold the weights of these layers as (in, out).
FLIPPED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
FLIPPED_LAYERS = ("c_attn", "c_proj", "c_fc", "q_attn")


def model_type(source: Source) -> str:
    """What a model's configuration says that it is, such as `bert`; empty where there is none."""
    return str(config_of(source).get("model_type", ""))


def is_adapter(path: Path | str) -> bool:
    """Whether a folder holds an adapter of PEFT."""
    return (Path(path) / CONFIG).is_file()


@dataclass(frozen=True)
class LowRank:
    """The factors of one layer: names of tensors in the adapter's file, and what they are multiplied by.

    Shapes: a (rank, in, *kernel), b (out, rank, *ones); of an embedding a (rank, rows), b (width, rank); of the
    parameter of n experts a (n * rank, in), b (out, rank * n), where the expert is the fastest index of b.
    """

    a: str
    b: str
    rank: int
    scale: float
    bias: str | None = None
    magnitude: str | None = None
    parameter: str | None = None
    #: Whether the rows of the weight are those of a: embeddings, and layers that hold their weight as (in, out).
    flipped: bool = False
    experts: int = 1


class Adapter:
    """An adapter on disk: its settings, checked, and where its tensors are. Reads the header of its weights only.

    low_rank: module -> factors. full: tensor of the model -> tensor of the adapter that takes its place.
    Errors: a configuration that is broken, kinds and settings that are no exact change of weights, ranks that are not
    those of the configuration, tensors of an unknown kind.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._asked = f"read the adapter in {self.path}"
        self._config = self._read_config()
        self._check_kind()
        self.base_name = self._text("base_model_name_or_path")
        self.flipped = self._flag("fan_in_fan_out")
        self._rank = self._count(self._config.get("r"), "r")
        self._alpha = self._number(self._config.get("lora_alpha"), "lora_alpha")
        self._ranks = [(self._pattern(k), self._count(v, "rank_pattern")) for k, v in self._table("rank_pattern")]
        self._alphas = [(self._pattern(k), self._number(v, "alpha_pattern")) for k, v in self._table("alpha_pattern")]
        self.saved = self._names("modules_to_save")
        self.tied = self._flag("ensure_weight_tying")
        self._parameters = self._names("target_parameters")
        if self._config.get("bias") not in (None, "none", "all", "lora_only"):
            raise self._wrong("bias", "'none', 'all' or 'lora_only'")
        file = next((self.path / name for name in _FILES if (self.path / name).is_file()), None)
        if file is None:
            raise self._error(f"there is a {CONFIG}, and no {_FILES[0]}", "copy the adapter's weights as well")
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
        return [*(_tensor(module, part) for module, part in self.low_rank.items()), *self.full]

    def _error(self, found: str, do: str) -> AllroundError:
        return AllroundError(self._asked, found, do)

    def _wrong(self, key: str, wanted: str) -> AllroundError:
        if key not in self._config:
            return self._error(f"its {CONFIG} lacks '{key}'", _REWRITE)
        value = repr(self._config[key])
        return self._error(f"'{key}' in its {CONFIG} must be {wanted}, not {value[:60]}", _REWRITE)

    def _read_config(self) -> dict[str, Any]:
        file = self.path / CONFIG
        if not file.is_file():
            raise self._error(f"the folder holds no {CONFIG}", "give a folder that PEFT's save_pretrained wrote")
        if file.stat().st_size > _LONGEST:
            raise self._error(f"its {CONFIG} is {file.stat().st_size} bytes long", _REWRITE)
        config = read_settings(file)
        if not isinstance(config, dict):
            raise self._error(f"its {CONFIG} holds no settings", _REWRITE)
        return config

    def _check_kind(self) -> None:
        kind = self._config.get("peft_type")
        if not isinstance(kind, str):
            raise self._wrong("peft_type", "the name of a kind, such as 'LORA'")
        if kind in _WEIGHTLESS:
            raise self._error(
                f"it is of the kind {kind}, which changes no weights of the base", "merge adapters of the kind LORA"
            )
        if kind != "LORA":
            raise self._error(f"it is of the kind {kind[:40]}, and allround reads LORA", _MATERIALISE)
        for key, value in self._config.items():
            if value in (None, False) or value in ([], {}, "") or key in _KNOWN:
                continue
            reason = _REFUSED.get(key, "allround does not know this setting")
            raise self._error(f"it sets '{key[:60]}': {reason}", _MATERIALISE)
        start = self._config.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_OTHER_BASE):
            raise self._error(
                f"it was begun with init_lora_weights='{start[:40]}', so it may not be a change of the base as it is",
                "convert it when it is saved: save_pretrained(folder, path_initial_model_for_weight_conversion=...); "
                f"or {_MATERIALISE}",
            )

    def _flag(self, key: str) -> bool:
        value = self._config.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return bool(value)

    def _text(self, key: str) -> str | None:
        value = self._config.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def _names(self, key: str) -> tuple[str, ...]:
        value = self._config.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(n, str) and n for n in value)):
            raise self._wrong(key, "a list of names")
        return tuple(value or ())

    def _table(self, key: str) -> list[tuple[str, Any]]:
        value = self._config.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, "a table of patterns and numbers")
        return list((value or {}).items())

    def _count(self, value: Any, key: str) -> int:
        if type(value) is not int or value < 1:
            raise self._wrong(key, "a whole number above 0")
        return value

    def _number(self, value: Any, key: str) -> float:
        fits = type(value) in (int, float) and abs(value) < 1e30
        if not fits:
            raise self._wrong(key, "a finite number")
        return float(value)

    def _pattern(self, text: str) -> re.Pattern[str]:
        """A pattern of layers, as PEFT takes it. Those that could take forever to compare are refused."""
        hungry = len(re.findall(r"(?<![\\(])[*+{?]", text))
        groups = len(re.findall(r"(?<!\\)\(", text))
        if len(text) > 1000 or hungry > 3 or groups > 3 or re.search(r"\)\s*[*+{]", text):
            raise self._error(f"the pattern of layers {text[:60]!r} is too complex", "name the layers one by one")
        try:
            return re.compile(rf"(.*\.)?({text})$")
        except (re.error, RecursionError, OverflowError):
            raise self._error(f"{text[:60]!r} is no pattern of layers", _REWRITE) from None

    def _sort(self) -> None:
        """Take the tensors of the file apart."""
        parts: dict[str, dict[str, str]] = {}
        for key in self.weights:
            name = key.removeprefix("base_model.model.")
            match = _FACTOR.fullmatch(name)
            if match is not None:
                found = parts.setdefault(match["module"], {})
                self._once(found, match.lastgroup or "", key)
            elif re.search(r"(^|\.)lora_", name):
                raise self._error(f"it holds '{key}', which is no part of a LoRA that allround knows", _MATERIALISE)
            elif "original_module" not in name.split("."):  # a copy of the base's that PEFT does not use
                clean = ".".join(part for part in name.split(".") if part not in ("base_layer", "modules_to_save"))
                self._once(self.full, clean, key)  # PEFT writes some twice: all biases, and modules that it saves
        whose: dict[str, str] = {}
        for module, found in parts.items():
            factors = self._factors(module, found)
            self._once(whose, _plain(module), factors.a)
            self.low_rank[_plain(module)] = factors
        if not parts and not self.full:
            raise self._error("it holds no tensors", _REWRITE)

    def _once(self, places: dict[str, str], place: str, key: str) -> None:
        """Put a tensor of the file into its place. Errors: another is there, and has other values."""
        if place in places and not self._same(places[place], key):
            raise self._error(f"'{places[place]}' and '{key}' are for the same tensor of the model", _REWRITE)
        places[place] = key

    def _same(self, one: str, other: str) -> bool:
        import torch

        alike = self.weights.dtype(one) == self.weights.dtype(other)
        return alike and torch.equal(self.weights.get(one), self.weights.get(other))

    def _factors(self, module: str, found: dict[str, str]) -> LowRank:
        if not {"a", "b"} <= set(found):
            raise self._error(f"one of the two factors of '{module}' is missing", "copy or save the adapter again")
        dora = self._flag("use_dora")
        if dora != ("magnitude" in found):
            have = "has a magnitude, and use_dora is not set" if not dora else "has no magnitude, and use_dora is set"
            raise self._error(f"'{module}' {have}", _REWRITE)
        if "bias" in found and not self._flag("lora_bias"):
            raise self._error(f"'{module}' has a LoRA bias, and lora_bias is not set", _REWRITE)
        if module.endswith(".base_layer.out_proj"):
            raise self._error("it adapts torch's MultiheadAttention, where PEFT counts the change of the output "
                              "projection twice", _MATERIALISE)  # fmt: skip
        parameter = self._parameter(module)
        # PEFT looks patterns up by the name of the module that it replaced, or of the parameter.
        layer = module + (f".{parameter}" if parameter else "")
        rank = next((value for pattern, value in self._ranks if pattern.match(layer)), self._rank)
        alpha = next((value for pattern, value in self._alphas if pattern.match(layer)), self._alpha)
        a, b = self.weights.shape(found["a"]), self.weights.shape(found["b"])
        experts = a[0] // rank if parameter and len(a) == 2 else 1
        if len(a) == len(b) > 2 and b[1] != a[0] == rank:
            raise self._error(f"'{module}' is a convolution in groups, whose LoRA is no change of its weight",
                              "leave this adapter out; PEFT cannot merge it either")  # fmt: skip
        if len(a) < 2 or len(b) != len(a) or a[0] != b[1] or a[0] != rank * experts or not experts:
            raise self._error(
                f"the factors of '{module}' have the shapes {a} and {b}, and its configuration says rank {rank}",
                "restore the adapter_config.json that it was saved with",
            )
        if any(self.weights.dtype(key) not in FLOATS for key in found.values()):
            raise self._error(f"the factors of '{module}' are not floating point", "save the adapter in float32")
        return LowRank(
            found["a"],
            found["b"],
            rank,
            alpha / (math.sqrt(rank) if self._flag("use_rslora") else rank),
            found.get("bias"),
            found.get("magnitude"),
            parameter,
            "lora_embedding_A" in found["a"],
            experts,
        )

    def _parameter(self, module: str) -> str | None:
        """The parameter of a module that is adapted, where it is not its weight."""
        found = []
        for target in self._parameters:
            owner, _, name = target.rpartition(".")
            if not owner:
                raise self._error(f"'{target}' in target_parameters does not say of which module", _MATERIALISE)
            if f".{_plain(module)}".endswith(f".{owner}"):
                found.append(name)
        if len(found) > 1 or (found and module.endswith(".base_layer")):
            raise self._error(
                f"several parameters of '{module}' are adapted, and the file does not say which factors are whose",
                _MATERIALISE,
            )
        return found[0] if found else None


def _plain(module: str) -> str:
    return ".".join(part for part in module.split(".") if part != "base_layer")


@dataclass(frozen=True)
class _Edit:
    """One step from the base's tensor to the adapted one: factors, or a tensor that takes its place.

    shift: the tensor is added, times `scale` (the bias of a LoRA).
    """

    number: int
    adapter: Adapter
    factors: LowRank | None = None
    full: str | None = None
    scale: float | None = None

    @property
    def keys(self) -> list[str]:
        if self.factors is None:
            assert self.full is not None
            return [self.full]
        return [key for key in (self.factors.a, self.factors.b, self.factors.magnitude) if key is not None]


class Adapted(Source):
    """A base with adapters on it, as if PEFT had merged one after the other into it in float32.

    Tensors that no adapter changes are the base's. Where one is changed, `read` gives float32 (float64 on a float64
    base), and `dtype` says so. Whole tensors that an adapter brings along (`modules_to_save`) and the base lacks are
    tensors of this source beside the base's.

    Where an adapter changes the embedding or the output layer of a base that ties the two, they part, as in the model
    that PEFT trained: each is a tensor of this source, and the one that no adapter changes keeps the base's values.
    Differs: `merge_and_unload()` adds a LoRA of either to both, so its model is not the trained one; it warns of that.

    same_base: `change` will only be asked from this very base, so that nothing is added and subtracted again, and
    nothing of the base is read where no DoRA needs it. Otherwise the two bases are compared as well.
    Errors: layers that the base lacks, shapes that do not fit, layers whose orientation cannot be told.
    """

    def __init__(self, base: Source, adapters: Adapter | Sequence[Adapter], *, same_base: bool = False) -> None:
        self.adapters = [adapters] if isinstance(adapters, Adapter) else list(adapters)
        base, twins = _untied(base, self.adapters)
        self.base_source = base
        self.same_base = same_base
        self.path = self.adapters[0].path if same_base else base.path
        # A copy has no watch: rows that are read for a norm alone must not count as read.
        self._base = copy.copy(base)
        self._edits: dict[str, list[_Edit]] = {}
        self._norms: dict[tuple[str, int], Tensor] = {}
        self._extra: list[str] = []
        self._kind = model_type(base)
        finder = _Finder([*base, *twins])
        for number, adapter in enumerate(self.adapters):
            self._add(number, adapter, finder, twins)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_norms": {}, "watch": None}

    @property
    def inner(self) -> Source:
        """The source whose files and layout it has."""
        return self.base_source

    @property
    def files(self) -> list[Path]:
        return [*self.base_source.files, *(file for adapter in self.adapters for file in adapter.files)]

    @property
    def metadata(self) -> dict[str, str]:
        return dict(getattr(self.base_source, "metadata", None) or {})

    def __iter__(self) -> Iterator[str]:
        yield from self.base_source
        yield from self._extra

    def __len__(self) -> int:
        return len(self.base_source) + len(self._extra)

    def __contains__(self, name: object) -> bool:
        return name in self._edits or name in self.base_source

    def shape(self, name: str) -> tuple[int, ...]:
        for edit in reversed(self._edits.get(name, [])):
            if edit.full is not None and edit.scale is None:
                return edit.adapter.weights.shape(edit.full)
        return self.base_source.shape(name)

    def dtype(self, name: str) -> str:
        if name not in self._edits:
            return self.base_source.dtype(name)
        kinds = [e.adapter.weights.dtype(e.full) for e in self._edits[name] if e.full is not None]
        if kinds and kinds[-1] not in FLOATS:
            return kinds[-1]
        kinds += [] if name in self._extra else [self.base_source.dtype(name)]
        return "F64" if "F64" in kinds else "F32"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        stop = self.numel(name) if stop is None else stop
        if name not in self._edits:
            return self._read_base(name, start, stop)
        dtype = torch_dtype(self.dtype(name))
        origin, delta = self._stretch(name, start, stop, dtype)
        values = self._read_base(name, start, stop).to(dtype) if origin is None else origin
        return values if delta is None else values.add(delta)

    def change(self, name: str, start: int, stop: int, base: Tensor, out: Tensor) -> None:
        """Put into `out` how far the elements from `start` to `stop` are from `base`: of a LoRA its own product.

        Shapes: base, out (stop - start,), in the dtype that is computed in.
        """
        origin, delta = self._stretch(name, start, stop, out.dtype)
        if origin is None and self.same_base:
            out.zero_()
        else:
            origin = self._read_base(name, start, stop) if origin is None else origin
            out.copy_(origin).sub_(base)
        if delta is not None:
            out.add_(delta)

    def announce(self, name: str) -> None:
        edits = self._edits.get(name, [])
        for edit in edits:
            for key in edit.keys:
                edit.adapter.weights.announce(key)
        reads = any(edit.factors is not None and edit.factors.magnitude for edit in edits)
        if (reads or not self.same_base) and name in self.base_source:
            self._base.announce(name)

    def _read_base(self, name: str, start: int, stop: int) -> Tensor:
        values = self._base.read(name, start, stop)
        if self.watch is not None and not self.same_base:
            self.watch(name, start, values)
        return values

    def _stretch(self, name: str, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """What takes the place of the base's elements (None: nothing does), and what is added to it."""
        edits = self._edits.get(name, [])
        if start == 0 and self.watch is not None:
            self._show(edits)
        while any(e.full is not None and e.scale is None for e in edits[1:]):
            edits = edits[1:]  # what came before is replaced
        if not any(edit.factors for edit in edits):
            return self._flat(edits, start, stop, dtype)
        width = self._width(name, edits)
        first, last = start // width, -(-stop // width)
        origin, delta = self._rows(name, edits, first, last, dtype)
        place = slice(start - first * width, stop - first * width)
        return (None if origin is None else origin[place], None if delta is None else delta[place])

    def _show(self, edits: Sequence[_Edit]) -> None:
        """Let the watch see the adapters' tensors, whole."""
        assert self.watch is not None
        for edit in edits:
            weights = edit.adapter.weights
            for key in edit.keys:
                size = weights.numel(key)
                for start in range(0, size, 1 << 22):
                    values = weights.read(key, start, min(start + (1 << 22), size))
                    self.watch(f"adapter {edit.number}: {key}", start, values)

    def _flat(
        self, edits: Sequence[_Edit], start: int, stop: int, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        origin = delta = None
        for edit in edits:
            assert edit.full is not None
            values = edit.adapter.weights.read(edit.full, start, stop).to(dtype)
            if edit.scale is None:
                origin, delta = values, None
            else:
                values = values.mul_(edit.scale)
                delta = values if delta is None else delta.add_(values)
        return origin, delta

    def _width(self, name: str, edits: Sequence[_Edit]) -> int:
        """Elements of a row; the rows of all experts count as one after the other."""
        shape = self.shape(name)
        return shape[-1] if any(e.factors and e.factors.parameter for e in edits) else math.prod(shape[1:])

    def _rows(
        self, name: str, edits: Sequence[_Edit], first: int, last: int, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """The same for whole rows, laid out in a row."""
        width = self._width(name, edits)
        origin = delta = None
        for number, edit in enumerate(edits):
            if edit.factors is None:
                origin, delta = self._flat([edit], first * width, last * width, dtype)
                continue
            product = _product(edit, self.shape(name), first, last, dtype)
            if edit.factors.magnitude is None:
                delta = product.view(-1) if delta is None else delta.add_(product.view(-1))
                continue
            before = origin
            if before is None:
                before = self._base.read(name, first * width, last * width).to(dtype)
            if delta is not None:
                product.add_(delta.view_as(product))
            whole = product.add(before.view_as(product))  # DoRA replaces the norms of this
            magnitude = edit.adapter.weights.read(edit.factors.magnitude).to(dtype)
            if edit.factors.flipped:
                factor = magnitude / self._column_norms(name, edits, number).to(dtype)
            else:
                factor = (magnitude[first:last] / whole.norm(dim=1)).unsqueeze(1)
            # factor * whole - before, without taking the base away from what is nearly the base
            delta = whole.mul_(factor - 1).add_(product).view(-1)
        return origin, delta

    def _column_norms(self, name: str, edits: Sequence[_Edit], number: int) -> Tensor:
        """The norm of every column of the adapted weight before DoRA scales it. One pass over the base, kept: small."""
        import torch

        key = name, len(self._edits[name]) - len(edits) + number
        if key not in self._norms:
            rows, *rest = self.shape(name)
            width = math.prod(rest)
            step = max(1, (1 << 20) // width)
            total = torch.zeros(width, dtype=torch.float64)
            for first in range(0, rows, step):
                last = min(first + step, rows)
                origin, delta = self._rows(name, edits[:number], first, last, torch.float32)
                values = self._base.read(name, first * width, last * width) if origin is None else origin
                whole = _product(edits[number], (rows, width), first, last, torch.float32)
                whole.add_(values.view_as(whole))
                if delta is not None:
                    whole.add_(delta.view_as(whole))
                total += whole.double().square_().sum(0)
            self._norms[key] = total.sqrt_()
        return self._norms[key]

    def _add(self, number: int, adapter: Adapter, finder: _Finder, twins: Mapping[str, str]) -> None:
        """Find the base's tensor for everything that an adapter holds, but for twins, which repeat others."""
        finder.fit(adapter.names)
        missing: list[str] = []
        taken: dict[str, str] = {}
        for name, key in adapter.full.items():
            found = finder.find(name)
            if found in twins:
                continue
            if found is not None:
                self._take(taken, found, name, adapter)
                self._edits.setdefault(found, []).append(_Edit(number, adapter, full=key))
            elif _is_saved(name, adapter.saved):
                self._extra += [name] if name not in self._edits else []
                self._edits.setdefault(name, []).append(_Edit(number, adapter, full=key))
            else:
                missing.append(name)
        taken.clear()
        layers: dict[str, tuple[str, LowRank]] = {}
        for module, part in adapter.low_rank.items():
            tensor = _tensor(module, part)
            found = finder.find(tensor)
            if found in twins:
                continue
            if found is None:
                missing.append(tensor)
                continue
            self._take(taken, found, tensor, adapter)
            layers[found] = (module, part)
            if part.bias is not None:
                bias = finder.find(f"{module}.bias")
                if bias is None:
                    missing.append(f"{module}.bias")
                    continue
                shape = adapter.weights.shape(part.bias)
                if shape != self.shape(bias):
                    raise self._unfit(adapter, part.bias, bias, f"its bias has the shape {shape}")
                self._edits.setdefault(bias, []).append(_Edit(number, adapter, full=part.bias, scale=part.scale))
        if missing:
            raise AllroundError(
                f"put the adapter {adapter.path} on {self.base_source.path}",
                f"{len(missing)} of the tensors that it changes are not in the base ({', '.join(missing[:3])})",
                "give the base it was tuned from" + (f", '{adapter.base_name}'" if adapter.base_name else ""),
            )
        self._orient(number, adapter, layers)

    def _take(self, taken: dict[str, str], found: str, name: str, adapter: Adapter) -> None:
        if found in taken:
            raise AllroundError(
                f"put the adapter {adapter.path} on {self.base_source.path}",
                f"'{taken[found]}' and '{name}' would both be the base's '{found}'",
                "give the base it was tuned from" + (f", '{adapter.base_name}'" if adapter.base_name else ""),
            )
        taken[found] = name

    def _orient(self, number: int, adapter: Adapter, layers: Mapping[str, tuple[str, LowRank]]) -> None:
        """Compare shapes, and tell layers that hold their weight as (in, out) from the others."""
        ways = {name: self._ways(adapter, name, part) for name, (_, part) in layers.items()}
        told = {way[0] for name, way in ways.items() if len(way) == 1 and _is_linear(adapter, layers[name][1])}
        for name, (module, part) in layers.items():
            way = ways[name]
            flipped = way[0]
            if len(way) > 1 and self._kind in FLIPPED and module.rpartition(".")[2] in FLIPPED_LAYERS:
                flipped = True
            elif len(way) > 1 and (part.experts > 1 or len(told) > 1):
                raise AllroundError(
                    f"put the adapter {adapter.path} on {self.base_source.path}",
                    f"'{module}' is square, and the files do not say whether it holds its weight as (in, out)",
                    _MATERIALISE,
                )
            elif len(way) > 1:
                flipped = next(iter(told), adapter.flipped)
            self._edits.setdefault(name, []).append(_Edit(number, adapter, replace(part, flipped=flipped)))

    def _ways(self, adapter: Adapter, name: str, part: LowRank) -> list[bool]:
        """How the factors fit the weight: as (out, in), flipped, or both."""
        shape, a, b = self.shape(name), adapter.weights.shape(part.a), adapter.weights.shape(part.b)
        words = f"its factors have the shapes {a} and {b}"
        if self.base_source.dtype(name) not in FLOATS:
            raise AllroundError(
                f"put the adapter {adapter.path} on {self.base_source.path}",
                f"'{name}' of the base is {self.base_source.dtype(name)}: quantised, or no weight",
                "give the base in float32, float16 or bfloat16",
            )
        if "lora_embedding_A" in part.a:
            ways = [True] if shape == (a[1], b[0]) else []
        elif len(a) > 2:
            ways = [False] if shape == (b[0], *a[1:]) and math.prod(b[2:]) == 1 else []
        elif len(shape) == 3 and part.parameter:
            ways = [f for f in (False, True) if shape == (part.experts, *((b[0], a[1]) if not f else (a[1], b[0])))]
        else:
            straight = shape == (b[0], a[1]) and part.experts == 1
            ways = [False] * straight
            ways += [True] * (not part.parameter and shape == (a[1], b[0]))
        if not ways:
            raise self._unfit(adapter, part.a, name, words)
        if part.magnitude is not None and adapter.weights.numel(part.magnitude) != b[0]:
            raise self._unfit(
                adapter, part.a, name, f"its magnitude has the shape {adapter.weights.shape(part.magnitude)}"
            )
        return ways

    def _unfit(self, adapter: Adapter, key: str, name: str, words: str) -> AllroundError:
        return AllroundError(
            f"put the adapter {adapter.path} on {self.base_source.path}",
            f"'{key}' does not fit '{name}' of the shape {self.shape(name)}: {words}",
            "give the base it was tuned from" + (f", '{adapter.base_name}'" if adapter.base_name else ""),
        )


def _untied(base: Source, adapters: Sequence[Adapter]) -> tuple[Source, Mapping[str, str]]:
    """The base, with its output layer by itself where that is its embedding and an adapter changes either alone; and
    what the output layer is called (with what it repeats) where adapters change both alike, and it stays tied."""
    finder = _Finder(base)
    touching = []
    for adapter in adapters:
        finder.fit(adapter.names)
        places = [finder.find(name) or name for name in adapter.names]
        if any(EMBEDDING.search(place) or (OUTPUT.search(place) and place.endswith(".weight")) for place in places):
            touching.append(adapter)
    if not touching:
        return base, {}
    twins = twins_of(base, f"put the adapter {touching[0].path} on {base.path}")
    finder = _Finder([*base, *twins])
    for adapter in touching:
        finder.fit(adapter.names)
        if not adapter.tied and {*twins, *twins.values()} & {finder.find(name) for name in adapter.names}:
            return Untied(base, twins), {}
    return base, twins


def _tensor(module: str, part: LowRank) -> str:
    return f"{module}.{part.parameter or 'weight'}"


def _is_linear(adapter: Adapter, part: LowRank) -> bool:
    """Whether factors are of a layer that could hold its weight either way."""
    return not part.flipped and not part.parameter and len(adapter.weights.shape(part.a)) == 2


def _is_saved(name: str, saved: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of the modules that PEFT saves whole; it compares the ends of their names."""
    modules = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
    return any(module.endswith(tuple(saved)) for module in modules)


def _product(edit: _Edit, shape: tuple[int, ...], first: int, last: int, dtype: torch.dtype) -> Tensor:
    """The rows from `first` to `last` of a low-rank change, scaled. Reads what they need of the factors.

    Shapes: -> (last - first, elements of a row)
    """
    import torch

    part, weights = edit.factors, edit.adapter.weights
    assert part is not None
    if part.experts > 1:
        pieces = []
        while first < last:
            end = min(last, (first // shape[1] + 1) * shape[1])
            expert, row = divmod(first, shape[1])
            pieces.append(_expert(part, weights, expert, row, row + end - first, dtype))
            first = end
        return torch.cat(pieces)
    rank = part.rank
    if part.flipped:
        left = _columns(weights, part.a, 0, rank, first, last).T
        right = weights.read(part.b).view(-1, rank).T
    else:
        left = weights.read(part.b, first * rank, last * rank).view(-1, rank)
        right = weights.read(part.a).view(rank, -1)
    return left.to(dtype).mul(part.scale) @ right.to(dtype)


def _expert(part: LowRank, weights: Weights, expert: int, first: int, last: int, dtype: torch.dtype) -> Tensor:
    """The rows from `first` to `last` of one expert."""
    rank, size, experts = part.rank, weights.shape(part.a)[1], part.experts
    if part.flipped:
        left = _columns(weights, part.a, expert * rank, rank, first, last).T
        right = weights.read(part.b).view(-1, rank, experts)[:, :, expert].T
    else:
        step = rank * experts
        left = weights.read(part.b, first * step, last * step).view(-1, rank, experts)[:, :, expert]
        right = weights.read(part.a, expert * rank * size, (expert + 1) * rank * size).view(rank, size)
    return left.to(dtype).mul(part.scale) @ right.to(dtype)


def _columns(weights: Weights, key: str, row: int, rows: int, first: int, last: int) -> Tensor:
    """Columns of some rows of a matrix: shape (rows, last - first)."""
    import torch

    size = weights.shape(key)[1]
    return torch.stack([weights.read(key, k * size + first, k * size + last) for k in range(row, row + rows)])


class _Finder:
    """Finds the base's tensor of a name in an adapter: as it is, or with one prefix more or less.

    A module in the folder `2_Dense` of a sentence-transformers model is `2` in its adapter.
    """

    def __init__(self, base: Iterable[str]) -> None:
        self.known = {_FOLDER.sub(r"\1.", name, count=1): name for name in base}
        self.folders = {match[0] for name in self.known if (match := re.match(r"\d+\.", name))}
        self.strip = self.add = ""

    def fit(self, names: Sequence[str]) -> None:
        """Choose the prefix under which most of these names are found."""
        self.strip = self.add = ""
        rest = [name for name in names if name not in self.known]
        best = 0
        probes = sorted(rest, key=len, reverse=True)
        for strip, add in self._prefixes(probes[:: max(1, len(probes) // 16)]):
            count = sum(n.startswith(strip) and add + n[len(strip) :] in self.known for n in rest)
            if count > best:
                best, self.strip, self.add = count, strip, add

    def _prefixes(self, probes: Sequence[str]) -> list[tuple[str, str]]:
        found: dict[tuple[str, str], None] = {}
        for probe in probes:
            for known in self.known:
                if known.endswith(f".{probe}"):
                    found["", known[: -len(probe)]] = None
            for dot in re.finditer(r"\.", probe):
                for add in ("", *self.folders):
                    if add + probe[dot.end() :] in self.known:
                        found[probe[: dot.end()], add] = None
        return list(found)

    def find(self, name: str) -> str | None:
        if name in self.known:
            return self.known[name]
        if name.startswith(self.strip):
            return self.known.get(self.add + name[len(self.strip) :])
        return None
