"""Putting the modules of a plan inside an encoder's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from allround.core import registry
from allround.models.share.experts import First, Last, Seen, check_parts
from allround.models.share.generator import FromFactors, FromVectors, Place, WeightGenerator
from allround.models.share.insert import Inserted, Replaced, Route, replace_module, sizes
from allround.models.share.inside import Inside, shapes_of
from allround.models.share.plan import Choice, Insert
from allround.models.share.prompts import embedding_of, put_in
from allround.models.share.sites import BLOCKS, EXPERTS, INPUT, blocks_of, layers_at, places_of
from allround.models.share.vectors import TaskVectors


@dataclass
class Inserts:
    """What was put inside: mixtures by name, generators of their weights, and the layers that have another in their
    place, by name."""

    parts: nn.ModuleDict
    generators: nn.ModuleDict
    replaced: dict[str, Replaced]


def put_inside(
    backbone: nn.Module, inserts: tuple[Insert, ...], route: Route, vectors: TaskVectors | None, *, packed: bool
) -> Inserts:
    """Put modules inside a network. packed: whether several rows may stand in one sequence."""
    made = Inserts(nn.ModuleDict(), nn.ModuleDict(), {})
    finish: list[Callable[[], None]] = []  # all layers are found before any is replaced
    for number, insert in enumerate(inserts):
        if insert.site == EXPERTS:
            finish.append(_experts(backbone, number, insert, route, vectors, made))
        elif insert.site in (INPUT, BLOCKS):
            finish.append(_prompts(backbone, number, insert, route, vectors, made, packed=packed))
        else:
            finish.append(_beside(backbone, number, insert, route, vectors, made))
    for step in finish:
        step()
    return made


def _replace(backbone: nn.Module, made: Inserts, layers: dict[str, Replaced]) -> None:
    for name, layer in layers.items():
        replace_module(backbone, name, layer)
    made.replaced |= layers


def _named(number: int, layer: str) -> str:
    return f"insert{number}-{layer.replace('.', '/')}"


def _mixtures(
    insert: Insert, widths: dict[str, tuple[int, int]], places: list[Place], vectors: TaskVectors | None
) -> tuple[list[Inside], WeightGenerator | None]:
    """The mixture at each of some layers. widths: numbers that modules read and give there."""
    generator: WeightGenerator | None = None
    if insert.generator is not None:
        shapes = {p: shapes_of(insert.mixing, *w) for p, w in zip(places, widths.values(), strict=True)}
        if insert.generator.form == "factors":
            generator = FromFactors(insert.generator, shapes)
        else:
            assert vectors is not None
            generator = FromVectors(insert.generator, vectors, shapes)
    found: list[Inside] = []
    for place, (width, outputs) in zip(places, widths.values(), strict=True):
        first = found[0] if insert.tied and found else None
        own = (generator, place) if generator is not None else None
        found.append(Inside(insert.mixing, width, outputs, vectors=vectors, tied=first, generator=own))
    return found, generator


def _beside(
    backbone: nn.Module, number: int, insert: Insert, route: Route, vectors: TaskVectors | None, made: Inserts
) -> Callable[[], None]:
    """Modules beside single layers."""
    reads = str(registry.find("bank", insert.mixing.bank.name).facts["reads"])
    layers = layers_at(backbone, insert.site, insert.every)
    widths: dict[str, tuple[int, int]] = {}
    for layer in layers:
        width, outputs = sizes(backbone.get_submodule(layer))
        widths[layer] = (width if reads == "input" else outputs, outputs)
    places = places_of(backbone, layers) if insert.generator is not None else [(n, 0) for n in range(len(layers))]
    mixtures, generator = _mixtures(insert, widths, places, vectors)
    made.parts.update({_named(number, layer): mixture for layer, mixture in zip(layers, mixtures, strict=True)})
    if generator is not None:
        made.generators[f"insert{number}"] = generator
    inserted: dict[str, Replaced] = {
        layer: Inserted(backbone.get_submodule(layer), mixture, route, reads)
        for layer, mixture in zip(layers, mixtures, strict=True)
    }
    return lambda: _replace(backbone, made, inserted)


def _experts(
    backbone: nn.Module, number: int, insert: Insert, route: Route, vectors: TaskVectors | None, made: Inserts
) -> Callable[[], None]:
    """Experts in place of feed-forward parts."""
    layers_at(backbone, "feed_forward", insert.every)
    layers: dict[str, Replaced] = {}
    first: Inside | None = None
    for block in blocks_of(backbone)[insert.every - 1 :: insert.every]:
        *firsts, last = (backbone.get_submodule(name) for name in block.feed_forward)
        check_parts(firsts, last, block.name)
        seen = Seen()
        for name, layer in zip(block.feed_forward, firsts, strict=False):
            plain = replace(insert.mixing, gate=Choice("even"), gates="own", reads="vectors", mutual=0.0)
            changes = made.parts[_named(number, name)] = Inside(plain, *sizes(layer))
            assert isinstance(changes, Inside)
            layers[name] = First(layer, changes, seen)
        width = sizes(firsts[0])[0]
        tied = first if insert.tied else None
        weighed = Inside(insert.mixing, *sizes(last), width, vectors=vectors, tied=tied)
        first = first or weighed
        made.parts[_named(number, block.feed_forward[-1])] = weighed
        layers[block.feed_forward[-1]] = Last(last, weighed, seen, route)
    return lambda: _replace(backbone, made, layers)


def _prompts(
    backbone: nn.Module,
    number: int,
    insert: Insert,
    route: Route,
    vectors: TaskVectors | None,
    made: Inserts,
    *,
    packed: bool,
) -> Callable[[], None]:
    """Vectors in front of the embedded input, and other ones at each block."""
    embedding_of(backbone, packed=packed)
    width = int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]
    count = len(blocks_of(backbone)) if insert.site == BLOCKS else 1
    names = [str(n) for n in range(count)]
    widths = dict.fromkeys(names, (width, insert.length * width))
    mixtures, generator = _mixtures(insert, widths, [(n, 0) for n in range(count)], vectors)
    made.parts.update({_named(number, name): mixture for name, mixture in zip(names, mixtures, strict=True)})
    if generator is not None:
        made.generators[f"insert{number}"] = generator
    return lambda: put_in(backbone, mixtures, route, insert.length)
