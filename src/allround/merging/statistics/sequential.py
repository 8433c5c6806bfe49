"""RegMean++: layers merged one after the other, each on what the merged layers before it give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError, suggestion
from allround.merging.methods.average import average
from allround.merging.methods.regmean import regmean
from allround.merging.parts import Each
from allround.merging.statistics.kinds.gram import gram
from allround.merging.statistics.layers import TRANSPOSED, Call, Watch
from allround.merging.statistics.measure import MASK
from allround.models.batch import Batch
from allround.models.encoder import Encoder

#: How far it goes between two merges: a numbered block of layers, or one layer.
GROUPS = ("block", "layer")
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")


@torch.inference_mode()
def regmean_pp(
    base: Encoder,
    specialists: Mapping[str, Encoder],
    batches: Mapping[str, Sequence[Batch]],
    *,
    shrink: float = 0.9,
    weights: Each = 1.0,
    counts: bool = False,
    groups: str = "block",
) -> dict[str, Tensor]:
    """Merge encoders by RegMean with the inputs that layers have behind the merged ones before them.

    base: what all were tuned from. batches: rows of each specialist's task, on the device of the encoders. groups:
    `block` merges all layers of a numbered block (`encoder.layer.3`) at once, `layer` one after the other. The rest as
    for regmean. Returns every merged parameter of floating point by its name; nothing that is given is changed.

    Formula: for each group of layers, in the order in which the encoder calls them: the rows of task i go through the
    merged groups before it and then model i's own layers of the group, which gives the G_i of regmean.
    Differs: in the authors' code (Nguyen et al., 2025, arXiv:2508.03121, as in FusionBench) layers are those of one
    architecture; here the order is what a first batch shows.
    """
    _check(base, specialists, batches, groups)
    working = deepcopy(base).eval()
    at_base = dict(base.named_parameters())
    parameters = {name: p for name, p in working.named_parameters() if p.is_floating_point()}
    models = [dict(specialist.named_parameters()) for specialist in specialists.values()]
    calls = _calls(working, next(iter(batches.values()))[0])
    called = [name for names in calls for name in names]
    uncalled = [name for name in parameters if name not in called]
    for group in [uncalled, *_grouped(called, parameters, groups)]:
        grams: list[dict[str, Tensor]] = []
        transposed: set[str] = set()
        if group is not uncalled and any(parameters[name].ndim > 1 for name in group):
            until = 1 + max(n for n, names in enumerate(calls) if not set(group).isdisjoint(names))
            for model, task in zip(models, specialists, strict=True):
                for name in group:
                    parameters[name].copy_(model[name])
                grams.append(_grams(working, batches[task], set(group), until, transposed))
        for name in group:
            start = at_base[name].detach().float()
            deltas = torch.stack([model[name].detach().float() for model in models]) - start
            known = [found[name] for found in grams if name in found]
            if len(known) < len(models):
                merged = average(start, deltas, weights=weights)
            elif name in transposed:
                merged = regmean(start.T, deltas.mT, gram=torch.stack(known), shrink=shrink, weights=weights).T
            else:
                merged = regmean(start, deltas, gram=torch.stack(known), shrink=shrink, counts=counts, weights=weights)
            parameters[name].copy_(merged)
    return {name: p.detach().clone() for name, p in parameters.items()}


def _check(
    base: Encoder, specialists: Mapping[str, Encoder], batches: Mapping[str, Sequence[Batch]], groups: str
) -> None:
    asked = f"merge {len(specialists)} models layer by layer"
    if groups not in GROUPS:
        raise AllroundError(f"{asked}, by '{groups}'", "there is no such choice", suggestion(groups, GROUPS))
    lacking = [name for name in specialists if not batches.get(name)]
    if lacking or not specialists:
        raise AllroundError(
            asked,
            f"there are no rows for '{lacking[0]}'" if lacking else "no specialist is given",
            "give at least one model, and a batch of its task for each",
        )
    shapes = {name: p.shape for name, p in base.named_parameters()}
    for task, specialist in specialists.items():
        odd = [n for n, p in specialist.named_parameters() if shapes.get(n) != p.shape]
        odd += sorted(set(shapes) - {n for n, _ in specialist.named_parameters()})
        if odd:
            raise AllroundError(asked, f"'{odd[0]}' of '{task}' is not as in the base", "give models of one base")


def _calls(network: Encoder, batch: Batch) -> list[list[str]]:
    """The names of the parameters of each module that has some, in the order of the modules' calls."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    calls: list[list[str]] = []

    def note(module: nn.Module, args: object, output: object) -> None:
        calls.append([names[id(p)] for p in _own(module) if p.is_floating_point()])

    handles = [module.register_forward_hook(note) for module in network.modules() if _own(module)]
    try:
        network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _grouped(called: Sequence[str], parameters: Mapping[str, Tensor], groups: str) -> list[list[str]]:
    """The called parameters in groups: of one numbered block, or of one module where there are no such blocks.

    A block is numbered by the first number in the name that tells modules with matrices apart: of
    `0.encoder.layer.3.dense.weight` it is 3, where all is under 0.

    >>> weight = torch.ones(2, 2)
    >>> names = ["0.embed.weight", "0.layer.0.a.weight", "0.layer.0.b.weight", "0.layer.1.a.weight"]
    >>> _grouped(names, dict.fromkeys(names, weight), "block")
    [['0.embed.weight'], ['0.layer.0.a.weight', '0.layer.0.b.weight'], ['0.layer.1.a.weight']]
    """
    siblings: dict[str, set[str]] = {}
    for name in called:
        for found in _NUMBER.finditer(name) if parameters[name].ndim > 1 else ():
            siblings.setdefault(name[: found.start()], set()).add(found[1])
    grouped: dict[str, list[str]] = {}
    for name in dict.fromkeys(called):
        blocks = [name[: m.end()] for m in _NUMBER.finditer(name) if len(siblings.get(name[: m.start()], ())) > 1]
        key = blocks[0] if blocks and groups == "block" else name.rpartition(".")[0]
        grouped.setdefault(key, []).append(name)
    return list(grouped.values())


def _grams(
    network: Encoder, batches: Sequence[Batch], wanted: set[str], until: int, transposed: set[str]
) -> dict[str, Tensor]:
    """The Gram matrices of the wanted weights' layers; the network ends after `until` calls of modules."""
    totals: dict[str, Tensor] = {}
    rows: dict[str, int] = {}

    def take(call: Call) -> None:
        name = call.layer.weight
        if name not in wanted:
            return
        if call.layer.form == TRANSPOSED:
            transposed.add(name)
        found = gram(call.inputs, call.layer.width)
        totals[name] = totals[name] + found if name in totals else found
        rows[name] = rows.get(name, 0) + len(call.inputs)

    watch = Watch(network)
    watch.take = take
    with watch.on():
        for batch in batches:
            watch.mask = batch.tensors.get(MASK)
            with _ending(network, until):
                network(batch)
    return {name: total / max(1, rows[name]) for name, total in totals.items()}


class _EnoughError(Exception):
    """What is wanted was seen."""


@contextmanager
def _ending(network: nn.Module, calls: int) -> Iterator[None]:
    """End a run of the network after so many calls of modules that have parameters."""
    left = calls

    def count(module: nn.Module, args: object, output: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise _EnoughError

    handles = [module.register_forward_hook(count) for module in network.modules() if _own(module)]
    try:
        yield
    except _EnoughError:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module._parameters.values() if p is not None]
