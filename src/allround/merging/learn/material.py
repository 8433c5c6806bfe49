"""What a learned merge is made of: the base, the changes of the models, and rows with the specialists' answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.merging.learn.learning import Learning
from allround.merging.learn.objective import Response
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.batches import draw_batches
from allround.models.device import products
from allround.models.encoder import LINEAR, Encoder
from allround.models.head import HeadState, OutputHead, make_head
from allround.models.likelihood import likelihood
from allround.models.running import features_of
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.task import Split, Task, limit_split


@dataclass(frozen=True)
class Specialist:
    """A tuned model: its encoder's folder, its tasks, and its heads for those where it has any."""

    encoder: Path
    tasks: tuple[str, ...]
    heads: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass
class Rows:
    """The rows of one task: as the encoder prepared them, their targets where labels are used, and what the task's
    specialist answers. Lists have an entry for each row; in tasks per word it holds the row's words, and where answers
    are written the tokens of its answer. model: the number of the specialist. kept: the head that the merged model
    answers the task with."""

    definition: Definition
    prepared: list[Any]
    targets: list[Tensor] | None
    features: list[Tensor]
    logits: list[Tensor] | None
    head: OutputHead | None
    lengths: list[int]
    seed: int
    model: int
    kept: HeadState | None = None

    @property
    def owns_head(self) -> bool:
        """Whether the head that is learned with is the one that answers the task."""
        return self.head is not None and self.kept is not None and self.head.sort == self.kept.sort

    def batches(self, size: int, steps: int) -> list[list[int]]:
        """Row numbers of so many batches: one pass over the rows after the other, each in another order."""
        found: list[list[int]] = []
        while len(found) < steps:
            found += draw_batches(self.lengths, size, seed_of(self.seed, "pass", len(found)))
        return found[:steps]

    def batch(self, encoder: Encoder, rows: Sequence[int], device: torch.device) -> tuple[Batch, Response, Tensor]:
        """A batch with the specialist's answers and the targets (empty where labels are not used)."""

        def taken(parts: list[Tensor] | None) -> Tensor:
            return torch.cat([parts[row] for row in rows]).to(device) if parts else torch.empty(0, device=device)

        batch = encoder.batch([self.prepared[row] for row in rows], self.definition).to(device)
        logits = taken(self.logits) if self.logits is not None else None
        return batch, Response(taken(self.features), logits), taken(self.targets)


def gather_rows(
    encoder: Encoder,
    specialists: Sequence[Specialist],
    tasks: Mapping[str, Task],
    learning: Learning,
    *,
    split: str,
    seed: int,
    device: torch.device,
    precision: str = "auto",
) -> dict[str, Rows]:
    """At most `learning.rows` rows of a split of every task, drawn by the seed, and the specialists' answers to them.

    One specialist is in memory at a time, and answers rows as it reads them itself. What it writes is learned token by
    token. encoder: of the merged model.
    Labels are looked at only where the objective needs them. Errors: a specialist whose features are of another length.
    """
    found: dict[str, Rows] = {}
    labelled = "labels" in learning.needs
    for number, specialist in enumerate(specialists):
        plans = {n: _plan(specialist, tasks[n].definition, encoder, learning) for n in specialist.tasks}
        answers = "specialist" in learning.needs and learning.all_steps > 0
        needed = answers or any(plan.written is not None for plan in plans.values())
        model = load_encoder(specialist.encoder).to(device).eval() if needed else None
        for name, plan in plans.items():
            whole, definition = tasks[name].splits[split], plan.definition
            strata = kind(tasks[name].definition.kind).strata(whole.targets) if labelled else None
            rows = limit_split(whole, learning.rows, seed_of(seed, "rows", name), strata)
            targets: list[Tensor] | None = None
            features: list[Tensor] = []
            logits = None
            with products(precision, device.type):
                if plan.written is not None:
                    assert model is not None
                    ready, targets = _written(specialist, plan.written, encoder, model, rows, labelled)
                else:
                    # Of a search, what is computed from its answers reads the passages that answer a query too.
                    read_too = kind(definition.kind).ranked and learning.compares_answers
                    ready = encoder.prepare(rows.inputs, definition, rows.targets if read_too else None)
                    if labelled:
                        read = likelihood(definition)
                        targets = [read.tensor(rows.take([n]).targets) for n in range(len(rows))]
                if model is not None and answers:
                    _check_features(specialist, definition, encoder, model)
                    alike = plan.written is not None or model.preparation == encoder.preparation
                    own = ready if alike else model.prepare(rows.inputs, definition)
                    seen = features_of(model, own, definition)
                    features = [part.clone() for part in seen.values.split(list(seen.lengths) or [1] * len(ready))]
                    if plan.head is not None:
                        with torch.no_grad():
                            logits = [plan.head(f) for f in features]
            lengths = [encoder.length(one) for one in ready]
            found[name] = Rows(definition, ready, targets if labelled else None, features, logits, plan.head, lengths,
                               seed_of(seed, name), number, plan.kept)  # fmt: skip
    return found


@dataclass(frozen=True)
class _Plan:
    """How a task is learned. definition, head: as which task, and with which head. kept: the head that the merged model
    answers with, where the specialist has one. written: the task itself, where it is learned token by token."""

    definition: Definition
    head: OutputHead | None
    kept: HeadState | None
    written: Definition | None = None


def _plan(specialist: Specialist, definition: Definition, encoder: Encoder, learning: Learning) -> _Plan:
    """Errors: a head without outputs, from which nothing can be learned."""
    given = specialist.heads.get(definition.name)
    sort = given.sort if isinstance(given, HeadState) else encoder.head(definition) if given is None else LINEAR
    definition = encoder.headed(definition, sort)
    weightless = registry.find("head", sort).facts["reads"] != "vectors"
    if given is None and not weightless:
        return _Plan(definition, None, None)
    if kind(definition.kind).ranked:
        return _Plan(definition, None, HeadState({}, sort))
    head = make_head(sort, definition, encoder.features(definition), given).requires_grad_(False)
    kept = None if given is None else head.stored()
    choice = encoder.token_choice(definition)
    if choice is not None and learning.compares_answers:
        among = make_head(choice.head, choice, encoder.features(choice))
        assert isinstance(among, OutputHead)
        return _Plan(choice, among.requires_grad_(False), kept, definition)
    if weightless and not learning.compares_answers:
        plain = replace(definition, kind="regression") if kind(definition.kind).written else definition
        return _Plan(replace(plain, head=LINEAR), None, kept)
    if not isinstance(head, OutputHead):
        raise AllroundError(
            f"learn from the answers to task '{definition.name}'",
            f"its head is of the sort '{sort}', which has no outputs to learn from",
            "learn by features: --objective features",
        )
    return _Plan(definition, head, kept)


def _written(
    specialist: Specialist, task: Definition, encoder: Encoder, model: Encoder, rows: Split, labelled: bool
) -> tuple[list[Any], list[Tensor]]:
    """Rows whose answers a specialist writes, prepared token by token, and which of the tokens that are compared are
    the answer's. labelled: the right answers, and not its own. Errors: a model that reads rows in its own way."""
    if model.preparation != encoder.preparation:
        raise AllroundError(
            f"learn a merge with {specialist.encoder}",
            f"it cuts the prompts of task '{task.name}' into other tokens than the base does",
            "give models with the base's tokenizer, chat template and settings, or learn by features: "
            "--objective features",
        )
    made = model.token_rows(rows.inputs, task, rows.targets if labelled else None)
    made = [(row, chosen) for row, chosen in made if chosen]
    if not made:
        raise AllroundError(
            f"learn from the answers to task '{task.name}'",
            f"the model in {specialist.encoder} writes nothing to any of {len(rows)} rows",
            "tune it again, or leave the task out",
        )
    return [row for row, _ in made], [torch.tensor(chosen) for _, chosen in made]


def _check_features(specialist: Specialist, definition: Definition, encoder: Encoder, model: Encoder) -> None:
    if model.features(definition) != encoder.features(definition):
        raise AllroundError(
            f"learn a merge with {specialist.encoder}",
            f"it gives {model.features(definition)} features for the task '{definition.name}', and the base "
            f"{encoder.features(definition)}",
            "give models that were tuned with the encoder settings of the base (how it reads pairs, say)",
        )


@dataclass
class Changes:
    """Floating weights of the base by the names of the encoder's own parameters, and how k models differ from them.

    base: name -> (*s), all of them. deltas: name -> (k, *s) in the weights' own dtype, of those that any model changed
    (and where an edit left something).
    buffers: name -> mean over the models of what is no parameter, such as running means; it is not learned.
    """

    base: dict[str, Tensor]
    deltas: dict[str, Tensor]
    buffers: dict[str, Tensor]


def gather_changes(
    base: Encoder, encoders: Sequence[Path], *, keep: float = 1.0, elect: bool = False, centred: bool = False
) -> Changes:
    """Read k tuned encoders, one at a time, and keep what they changed.

    keep, elect, centred: as in `Learning`. Errors: models of other shapes.
    """
    weights = {n: p.detach() for n, p in base.named_parameters() if p.is_floating_point()}
    floating = {n: b for n, b in base.named_buffers() if b.is_floating_point()}
    deltas: dict[str, Tensor] = {}  # of what any model changed: a table of tokens that none did may be most of all
    sums = {n: torch.zeros_like(b, dtype=torch.float64) for n, b in floating.items()}
    for number, folder in enumerate(encoders):
        model = load_encoder(folder)
        tuned = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, weight in {**weights, **floating}.items():
            other = tuned.get(name)
            if other is None or other.shape != weight.shape:
                raise AllroundError(
                    f"merge {folder} with the others",
                    f"its weight '{name}' is {tuple(other.shape) if other is not None else 'missing'}, and the base's "
                    f"is {tuple(weight.shape)}",
                    "give models that were tuned from this base",
                )
            if name in weights:
                if torch.equal(other.detach(), weight):
                    continue
                wide = torch.promote_types(weight.dtype, torch.float32)
                if name not in deltas:
                    deltas[name] = torch.zeros(len(encoders), *weight.shape, dtype=weight.dtype)
                deltas[name][number] = other.detach().to(wide) - weight.to(wide)
            else:
                sums[name] += other
        del model, tuned
    if centred:
        for name, delta in deltas.items():
            middle = delta.mean(0)
            weights[name] = weights[name] + middle
            delta -= middle
    edit(deltas, keep, elect, sum(weight.numel() for weight in weights.values()))
    buffers = {n: (s / len(encoders)).to(floating[n].dtype) for n, s in sums.items()}
    return Changes(weights, {n: deltas[n] for n in weights if n in deltas and deltas[n].any()}, buffers)


def edit(deltas: dict[str, Tensor], keep: float, elect: bool, entries: int = 0) -> None:
    """Trim changes in place to the `keep` largest entries of each model, and to those of the elected sign (TIES).

    Shapes: name -> (k, *s). The threshold is one for all weights of a model, and entries as large as it stay; the sign
    elected is that of the sum over models (plus, where that is zero). entries: of a whole model, where it has more than
    those that changed.

    >>> found = {"w": torch.tensor([[4.0, 0.1, -2.0, 0.0], [2.0, 0.2, 3.0, 0.0]])}
    >>> edit(found, 0.5, True)
    >>> found["w"].tolist()
    [[4.0, 0.0, 0.0, 0.0], [2.0, 0.0, 3.0, 0.0]]
    """
    if keep < 1 and deltas:
        models = len(next(iter(deltas.values())))
        for number in range(models):
            sizes = torch.cat([d[number].flatten().abs() for d in deltas.values()])
            count = max(1, int(keep * max(entries, len(sizes))))
            if count > len(sizes):
                continue
            least = sizes.kthvalue(len(sizes) - count + 1).values
            for delta in deltas.values():
                row = delta[number]
                row[row.abs() < least] = 0
    if elect:
        for delta in deltas.values():
            sign = torch.where(delta.sum(0) < 0, -1, 1).to(delta.dtype)
            delta.masked_fill_(delta * sign <= 0, 0)
