"""Running a network over rows and taking a statistic of what its layers see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from allround.core import registry
from allround.core.entry import Entry
from allround.core.errors import AllroundError, suggestion
from allround.core.seeds import seed_of
from allround.merging.statistics.layers import LOOKUP, TRANSPOSED, Call, Watch
from allround.models.batch import Batch, Features, taken
from allround.models.encoder import Encoder
from allround.models.head import Head, OutputHead
from allround.models.likelihood import fisher_terms, likelihood
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded
from allround.tasks.kind import kind as kind_of

#: Rows in a batch. Gradients of parameters are taken one row at a time.
BATCH = 32
#: Queries of a search whose passages are told apart, where each query is differentiated by itself.
QUERIES = 8
#: The key of the batch's mask: one where a position counts, zero where it is padding.
MASK = "attention_mask"


@dataclass(frozen=True)
class Examples:
    """Rows of one task as the encoder prepared them, with encoded targets where gradients are taken."""

    definition: Definition
    prepared: Sequence[Any]
    targets: Encoded = None


@dataclass
class Measured:
    """A statistic by parameter name: one tensor for each of its parts. transposed: weights stored as (in, out)."""

    parts: tuple[str, ...]
    tensors: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)


def entry_of(kind: str) -> Entry:
    """A kind of statistic, or an error that suggests the nearest."""
    if kind not in registry.names("statistic"):
        raise AllroundError(f"compute the statistic '{kind}'", "no method has that name",
                            suggestion(kind, registry.names("statistic")))  # fmt: skip
    return registry.find("statistic", kind)


def needs_head(kind: str) -> bool:
    """Whether a kind of statistic is one of gradients, which come from a task's head and labels."""
    return bool({"gradients", "parameters"} & set(entry_of(kind).facts["sees"]))


def measure(
    encoder: Encoder,
    examples: Sequence[Examples],
    kind: str,
    *,
    heads: Mapping[str, Head] | None = None,
    labels: str = "given",
    seed: int = 0,
    positions: int = 1024,
    batch_size: int = BATCH,
) -> Measured:
    """A statistic of an encoder for the rows of one task or more, all of which count alike.

    heads: by task, for kinds that take gradients. positions: the most that are kept of each layer, for kinds that keep
    rows. The encoder is put into evaluation mode, and runs on the device that it is on.
    """
    entry = entry_of(kind)
    encoder.eval()
    for name in heads or {}:
        assert heads is not None
        heads[name].eval()
    if "parameters" in entry.facts["sees"]:
        return _of_parameters(encoder, examples, entry, heads or {}, labels, seed)
    return _of_layers(encoder, examples, entry, heads or {}, labels, seed, positions, batch_size)


def _of_parameters(
    encoder: Encoder,
    examples: Sequence[Examples],
    entry: Entry,
    heads: Mapping[str, Head],
    labels: str,
    seed: int,
) -> Measured:
    compute = entry.load()
    named = {name: p for name, p in encoder.named_parameters() if p.requires_grad and p.is_floating_point()}
    totals = {name: torch.zeros(p.shape, device=p.device) for name, p in named.items()}
    generator = torch.Generator().manual_seed(seed_of(seed, entry.name))
    count = 0
    for one, batch, targets in _batches(encoder, examples, 1, ranked=QUERIES):
        found = _terms(heads, one.definition, encoder(batch), targets, labels, generator, each=True)
        for number, term in enumerate(found, 1):
            gradients = torch.autograd.grad(term, list(named.values()), retain_graph=number < len(found),
                                            allow_unused=True)  # fmt: skip
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    totals[name] += compute(gradient)
        count += batch.size
    return Measured((), {name: ((total / max(1, count)).cpu(),) for name, total in totals.items()})


def _of_layers(
    encoder: Encoder,
    examples: Sequence[Examples],
    entry: Entry,
    heads: Mapping[str, Head],
    labels: str,
    seed: int,
    positions: int,
    batch_size: int,
) -> Measured:
    compute, sees = entry.load(), entry.facts["sees"]
    gradients = "gradients" in sees
    measured = Measured(entry.facts["parts"])
    totals: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}
    kept: dict[str, list[Tensor]] = {}
    calls: list[Call] = []
    watch = Watch(encoder)
    generator = torch.Generator().manual_seed(seed_of(seed, entry.name))
    number = 0
    share = -(-positions // max(1, sum(-(-len(one.prepared) // batch_size) for one in examples)))

    def add(call: Call, *found: Tensor) -> None:
        name = call.layer.weight
        if call.layer.form == TRANSPOSED:
            measured.transposed.add(name)
        counts[name] = counts.get(name, 0) + len(call.inputs)
        for total, part in zip(totals.setdefault(name, [torch.zeros_like(part) for part in found]), found, strict=True):
            total += part

    def take(call: Call) -> None:
        if gradients:
            if call.layer.form != LOOKUP:
                calls.append(call)
        elif "inputs" in sees:
            add(call, compute(call.inputs, call.layer.width))
        else:
            rows = call.layer.rows_out(call.outputs, call.mask)
            drawn = torch.Generator().manual_seed(seed_of(seed, entry.name, number))
            places = torch.randperm(len(rows), generator=drawn)[:share].sort().values.to(rows.device)
            kept.setdefault(call.layer.weight, []).append(compute(rows, places).cpu())

    watch.take = take
    with watch.on():
        for number, (one, batch, targets) in enumerate(_batches(encoder, examples, batch_size)):  # noqa: B007 (take)
            watch.mask = batch.tensors.get(MASK)
            if not gradients:
                with torch.inference_mode():
                    encoder(batch)
                continue
            calls.clear()
            found = _terms(heads, one.definition, encoder(batch), targets, labels, generator)
            called = [call for call in calls if call.outputs.requires_grad]
            seen: list[list[Tensor]] = [[] for _ in called]
            for place, term in enumerate(found, 1):
                slopes = torch.autograd.grad(term, [call.outputs for call in called], retain_graph=place < len(found),
                                             allow_unused=True)  # fmt: skip
                for call, slope, listed in zip(called, slopes, seen, strict=True):
                    if slope is not None:
                        listed.append(call.layer.rows_out(slope, call.mask))
            for call, listed in zip(called, seen, strict=True):
                if listed:
                    add(call, *compute(call.inputs.detach(), torch.cat(listed)))
    for name, listed in kept.items():
        measured.tensors[name] = (torch.cat(listed)[:positions],)
    for name, parts in totals.items():
        measured.tensors[name] = tuple((part / max(1, counts[name])).cpu() for part in parts)
    return measured


def _terms(
    heads: Mapping[str, Head],
    definition: Definition,
    features: Features,
    targets: Encoded,
    labels: str,
    generator: torch.Generator,
    *,
    each: bool = False,
) -> list[Tensor]:
    """What is differentiated for a batch, as `fisher_terms` says. Of a search it is the loss that trains the task: how
    the relevant passages of a query are told from those of the batch. each: a term for each query, since they share
    passages."""
    head = heads[definition.name]
    if kind_of(definition.kind).ranked:
        if labels != "given":
            raise AllroundError(f"take the labels '{labels}' of task '{definition.name}'",
                                "its answers rank passages, and none are drawn",
                                "use the labels that are given")  # fmt: skip
        losses = head.each(features, targets)
        return list(losses.unbind()) if each else [losses.sum()]
    if not isinstance(head, OutputHead):
        raise AllroundError(
            f"take gradients of the answers to task '{definition.name}'",
            f"a head of the sort {type(head).__name__} has no outputs",
            "use a statistic that needs no gradients: --kind gram",
        )
    values = likelihood(definition).tensor(targets).to(features.values.device)
    return fisher_terms(head(features.values), values, definition, labels, generator)


def _batches(
    encoder: Encoder, examples: Sequence[Examples], batch_size: int, *, ranked: int | None = None
) -> Iterator[tuple[Examples, Batch, Encoded]]:
    """Batches of rows of like length, the longest first, with their targets. ranked: the size of batches of a search,
    whose queries have the passages of the others to be told from."""
    device = next(encoder.parameters()).device
    for one in examples:
        size = ranked if ranked is not None and kind_of(one.definition.kind).ranked else batch_size
        order = sorted(range(len(one.prepared)), key=lambda i: (-encoder.length(one.prepared[i]), i))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = encoder.batch([one.prepared[i] for i in rows], one.definition).to(device)
            yield one, batch, None if one.targets is None else taken(one.targets, rows)
