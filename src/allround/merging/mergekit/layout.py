"""The plan of a recipe of mergekit's, made when the models' headers can be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allround.checkpoints.header import FLOATS
from allround.checkpoints.source import Source
from allround.checkpoints.tied import OUTPUT
from allround.core.errors import AllroundError
from allround.merging.layout import make_plan, same_output
from allround.merging.mergekit.methods import Method, Parameter, Scalar
from allround.merging.mergekit.slices import Part, Slice
from allround.merging.mergekit.stacks import Stacks, height
from allround.merging.mergekit.values import Settings, checker, evaluate
from allround.merging.plan import Output, Plan
from allround.merging.recipe import Model, Recipe
from allround.merging.sources import open_model, untie

#: Weights in front of the layers; all others outside of the layers come after them.
_FRONT = re.compile(r"(^|[._])(embed\w*|embeddings?|wte|wpe|shared|tok_embeddings|rotary\w*|relative_pe)([._]|$)")


@dataclass(frozen=True)
class Layout:
    """Makes the plan of a recipe when the models' headers can be read: which tensor, from what, by which values.

    inputs: the recipe's base (if it has one) and models, as the slices name them. dtype: that inputs are cast to.
    written: the dtype of the output; None: the one that all inputs of a tensor go into.
    """

    method: Method
    slices: tuple[Slice, ...]
    module: Settings
    parameters: Settings
    inputs: tuple[Model, ...]
    sliced: bool
    dtype: str | None
    written: str | None
    rounded: bool
    asked: str

    def __call__(self, recipe: Recipe) -> Plan:
        recipe = _fetched(recipe)
        base = open_model(recipe.base, None) if recipe.base else None
        models = [open_model(model, base) for model in recipe.models]
        sources = untie([base, *models] if base is not None else models)
        work = _Work(self, base is not None, sources)
        outputs = work.stacked() if self.sliced else work.same()
        config = {**work.config, **recipe.config}
        recipe = replace(recipe, values=_common(outputs), round_to=self._round_to(sources), config=config)
        waiting = iter(sources)
        return make_plan(recipe, outputs=outputs, opener=lambda model, base: next(waiting))

    def _round_to(self, sources: Sequence[Source]) -> str | None:
        """What mergekit rounds to: the dtype it casts inputs to, or the one that all of them go into."""
        if not self.rounded:
            return None
        stored = {_stored(source, name) for source in sources for name in source} & set(FLOATS)
        wanted = self.dtype or (_promoted(stored) if self.method.rounds and stored else None)
        if wanted is None or wanted == "F64" or (wanted == "F32" and "F64" not in stored):
            return None
        return wanted if self.method.rounds or stored != {wanted} else None


def _fetched(recipe: Recipe) -> Recipe:
    """The recipe with a local folder for each Hub id that has a revision."""

    def fetch(path: str) -> str:
        name, _, revision = path.rpartition("@")
        if not name or Path(path).exists():
            return path
        from allround.models.base import download

        return str(download(name, revision=revision))

    def model(one: Model) -> Model:
        return Model(fetch(one.path), tuple(map(fetch, one.adapters)))

    tokenizer = recipe.tokenizer
    if tokenizer is not None:
        source = tokenizer.source if isinstance(tokenizer.source, str) else model(tokenizer.source)
        tokens = {
            text: replace(token, source=model(token.source) if token.source else None)
            for text, token in tokenizer.tokens.items()
        }
        prefer = model(tokenizer.prefer) if tokenizer.prefer else None
        tokenizer = replace(tokenizer, source=source, tokens=tokens, prefer=prefer)
    base = model(recipe.base) if recipe.base else None
    return replace(recipe, base=base, models=tuple(map(model, recipe.models)), tokenizer=tokenizer)


class _Work:
    """Lays out the tensors of one plan."""

    def __init__(self, layout: Layout, has_base: bool, sources: Sequence[Source]) -> None:
        self.layout, self.sources = layout, sources
        self.stacks = [Stacks(source) for source in sources]
        self.numbers = {model: number for number, model in enumerate(layout.inputs)}
        self.base = layout.inputs[0] if has_base else None
        self.count = len(sources) - has_base
        self.config: dict[str, int | list[str]] = {}
        self.checks = {name: checker(name, about) for name, about in layout.method.parameters.items()}

    def same(self) -> list[Output]:
        """The tensors of the base, or of the first model."""
        (only,) = self.layout.slices
        outputs = []
        for name in self.sources[0]:
            plain = same_output(self.sources[0], name, self.base is not None, self.count)
            names = {part.model: name for part in only.parts}
            outputs.append(self.output(name, plain.file, plain.key, only, names, self.stacks[0].t(name)))
        return outputs

    def stacked(self) -> list[Output]:
        """Layers of the inputs, one upon the other; what lies before them as in the first slice, and else as in the
        last."""
        asked, slices = self.layout.asked, self.layout.slices
        layers = self.stacked_layers(asked)
        self.rewrite_config(asked, len(layers))
        outputs = []
        for one, front in ((slices[0], True), (slices[-1], False)):
            stacks = self.of(one.parts[0])
            for name in stacks.source:
                place = stacks.place(name)
                outside = place.stack != stacks.main(asked)
                if outside and front == (bool(_FRONT.search(name)) and not OUTPUT.search(name)):
                    outputs.append(self.output(name, "", name, one, {part.model: name for part in one.parts}, 0.0))
            if front:
                outputs.extend(self.layer_outputs(layers))
        return outputs

    def of(self, part: Part) -> Stacks:
        return self.stacks[self.numbers[part.model]]

    def stacked_layers(self, asked: str) -> list[tuple[Slice, int, float]]:
        """The layers of the output: their slice, which one of it, and t."""
        layers: list[tuple[Slice, int, float]] = []
        for one in self.layout.slices:
            for part in one.parts:
                stacks = self.of(part)
                assert part.layers is not None
                if part.layers[1] > stacks.counts[stacks.main(asked)]:
                    raise AllroundError(
                        asked,
                        f"a slice takes the layers {list(part.layers)} of {part.model}, which has "
                        f"{stacks.counts[stacks.main(asked)]}",
                        "give ranges that the models have",
                    )
            assert one.parts[0].layers is not None
            length = one.parts[0].layers[1] - one.parts[0].layers[0]
            layers.extend((one, offset, height(offset, length)) for offset in range(length))
        return layers

    def layer_outputs(self, layers: Sequence[tuple[Slice, int, float]]) -> Iterator[Output]:
        asked = self.layout.asked
        stack = self.of(self.layout.slices[0].parts[0]).main(asked)
        for number, (one, offset, t) in enumerate(layers):
            first = one.parts[0]
            assert first.layers is not None
            for name in self.of(first).source:
                place = self.of(first).place(name)
                if place.stack != self.of(first).main(asked) or place.layer != first.layers[0] + offset:
                    continue
                names = {
                    part.model: f"{self.of(part).main(asked)}.{part.layers[0] + offset}.{place.rest}"
                    for part in one.parts if part.layers
                }  # fmt: skip
                new = f"{stack}.{number}.{place.rest}"
                yield self.output(new, "", new, one, names, t)

    def rewrite_config(self, asked: str, layers: int) -> None:
        stacks = self.stacks[0]
        for key in stacks.main_keys(stacks.main(asked)):
            self.config[key] = layers
        kinds = [
            (self.of(one.parts[0]).config.get("layer_types") or [None] * (offset + 1), one, offset)
            for one, offset, _ in self.stacked_layers(asked)
        ]
        listed = [
            types[one.parts[0].layers[0] + offset]
            for types, one, offset in kinds if one.parts[0].layers and len(types) > one.parts[0].layers[0] + offset
        ]  # fmt: skip
        if len(listed) == layers and None not in listed:
            self.config["layer_types"] = listed

    def output(
        self, name: str, file: str, key: str, one: Slice, names: Mapping[Model, str], t: float
    ) -> Output:  # fmt: skip
        others = [part for part in one.parts if part.model != self.base]
        shared = [one.parameters, self.layout.module, self.layout.parameters]
        try:
            given = {
                which: self.resolve(which, about, shared, name, t)
                for which, about in self.layout.method.parameters.items()
                if not about.each
            }
            each = {
                which: [
                    self.resolve(which, about, [part.parameters, *shared], names[part.model], t) for part in others
                ]
                for which, about in self.layout.method.parameters.items() if about.each
            }  # fmt: skip
            found = self.layout.method.translate(given, each)
        except AllroundError as error:
            raise AllroundError(
                self.layout.asked, f"for the tensor '{name}': {error.found} ({error.asked})", error.do
            ) from None
        at = self.base is not None
        place = [self.numbers[part.model] - at for part in others]
        dropped = set(range(len(others))) if -1 in found.dropped else set(found.dropped)
        models: list[str | None] = [None] * self.count
        for position, part in enumerate(others):
            if position not in dropped:
                models[place[position]] = names[part.model]
        values = {which: self.spread(value, place) for which, value in found.values.items()}
        base = names.get(self.base) if self.base is not None else None
        return Output(name, file, key, base, tuple(models), values, self.dtype(one, names))

    def spread(self, value: Scalar | list[float], place: Sequence[int]) -> Scalar | list[float]:
        """A value for each input as one for each of the recipe's models; one for all where they are the same."""
        if not isinstance(value, list):
            return value
        if len(set(value)) == 1:
            return value[0]
        spread = [1.0] * self.count
        for number, one in zip(place, value, strict=True):
            spread[number] = one
        return spread

    def resolve(self, which: str, about: Parameter, scopes: Iterable[Settings], name: str, t: float) -> Scalar | None:
        for scope in scopes:
            if which in scope:
                value = evaluate(scope[which], name, t, self.checks[which])
                if value is not None:
                    return value
        if about.default is ...:
            raise AllroundError(f"set '{which}'", "no filter fits it, and it has no default", "add a value for all")
        return about.default

    def dtype(self, one: Slice, names: Mapping[Model, str]) -> str | None:
        """The dtype that the inputs of a tensor go into, unless the recipe names one."""
        sources = [(self.sources[self.numbers[part.model]], names[part.model]) for part in one.parts]
        stored = {_stored(source, name) for source, name in sources if name in source} & set(FLOATS)
        return _promoted(stored) if stored and self.layout.written is None else None


def _promoted(dtypes: Iterable[str]) -> str:
    """The dtype that all go into.

    >>> _promoted(["F16", "BF16"])
    'F32'
    """
    found = set(dtypes)
    return "F64" if "F64" in found else "F32" if len(found) > 1 else next(iter(found))


def _stored(source: Source, name: str) -> str:
    """The dtype of a weight; with an adapter on it that of the model under it, as if both were saved as one."""
    inner = getattr(source, "inner", None)
    return _stored(inner, name) if inner is not None and name in inner else source.dtype(name)


def _common(outputs: Sequence[Output]) -> dict[str, Any]:
    """The values that all tensors have."""
    first = dict(outputs[0].values or {}) if outputs else {}
    return {k: v for k, v in first.items() if all((o.values or {}).get(k) == v for o in outputs)}
