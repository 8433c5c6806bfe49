"""What adapters change of a base: the tensor of each of their parts, found by its name and checked by its shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from allround.checkpoints.adapter import Adapter
from allround.checkpoints.adapter_config import MATERIALISE
from allround.checkpoints.header import FLOATS
from allround.checkpoints.low_rank import LowRank
from allround.checkpoints.source import Source
from allround.checkpoints.tied import EMBEDDING, OUTPUT, Untied, config_of, twins_of
from allround.core.errors import AllroundError

_FOLDER = re.compile(r"(\d+)_\w+/")
#: Architectures that hold the weights of these layers as (in, out).
FLIPPED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
FLIPPED_LAYERS = ("c_attn", "c_proj", "c_fc", "q_attn")


def model_type(source: Source) -> str:
    """What a model's configuration says that it is, such as `bert`; empty where there is none."""
    return str(config_of(source).get("model_type", ""))


@dataclass(frozen=True)
class Edit:
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


class Edits:
    """What adapters, one after the other, change of a base: the edits of each tensor, in their order.

    base: as given, or with its output layer by itself where adapters change that or the embedding alone. extra: whole
    tensors that adapters bring along, and the base lacks.
    Errors: layers that the base lacks, shapes that do not fit, layers whose orientation cannot be told.
    """

    def __init__(self, base: Source, adapters: Sequence[Adapter]) -> None:
        self.base, twins = _untied(base, adapters)
        self.extra: list[str] = []
        self._of: dict[str, list[Edit]] = {}
        self._kind = model_type(self.base)
        finder = _Finder([*self.base, *twins])
        for number, adapter in enumerate(adapters):
            self._add(number, adapter, finder, twins)

    def __getitem__(self, name: str) -> list[Edit]:
        return self._of.get(name, [])

    def __contains__(self, name: object) -> bool:
        return name in self._of

    def __iter__(self) -> Iterator[str]:
        """The names of the tensors that change."""
        return iter(self._of)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor with all edits made so far."""
        for edit in reversed(self[name]):
            if edit.full is not None and edit.scale is None:
                return edit.adapter.weights.shape(edit.full)
        return self.base.shape(name)

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
                self._of.setdefault(found, []).append(Edit(number, adapter, full=key))
            elif _is_saved(name, adapter.saved):
                self.extra += [name] if name not in self._of else []
                self._of.setdefault(name, []).append(Edit(number, adapter, full=key))
            else:
                missing.append(name)
        taken.clear()
        layers: dict[str, tuple[str, LowRank]] = {}
        for module, part in adapter.low_rank.items():
            tensor = part.tensor(module)
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
                self._of.setdefault(bias, []).append(Edit(number, adapter, full=part.bias, scale=part.scale))
        if missing:
            raise AllroundError(
                f"put the adapter {adapter.path} on {self.base.path}",
                f"{len(missing)} of the tensors that it changes are not in the base ({', '.join(missing[:3])})",
                "give the base it was tuned from" + (f", '{adapter.base_name}'" if adapter.base_name else ""),
            )
        self._orient(number, adapter, layers)

    def _take(self, taken: dict[str, str], found: str, name: str, adapter: Adapter) -> None:
        if found in taken:
            raise AllroundError(
                f"put the adapter {adapter.path} on {self.base.path}",
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
                    f"put the adapter {adapter.path} on {self.base.path}",
                    f"'{module}' is square, and the files do not say whether it holds its weight as (in, out)",
                    MATERIALISE,
                )
            elif len(way) > 1:
                flipped = next(iter(told), adapter.flipped)
            self._of.setdefault(name, []).append(Edit(number, adapter, replace(part, flipped=flipped)))

    def _ways(self, adapter: Adapter, name: str, part: LowRank) -> list[bool]:
        """How the factors fit the weight: as (out, in), flipped, or both."""
        shape, a, b = self.shape(name), adapter.weights.shape(part.a), adapter.weights.shape(part.b)
        words = f"its factors have the shapes {a} and {b}"
        if self.base.dtype(name) not in FLOATS:
            raise AllroundError(
                f"put the adapter {adapter.path} on {self.base.path}",
                f"'{name}' of the base is {self.base.dtype(name)}: quantised, or no weight",
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
            f"put the adapter {adapter.path} on {self.base.path}",
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


def _is_linear(adapter: Adapter, part: LowRank) -> bool:
    """Whether factors are of a layer that could hold its weight either way."""
    return not part.flipped and not part.parameter and len(adapter.weights.shape(part.a)) == 2


def _is_saved(name: str, saved: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of the modules that PEFT saves whole; it compares the ends of their names."""
    modules = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
    return any(module.endswith(tuple(saved)) for module in modules)


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
