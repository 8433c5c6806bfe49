"""One learned merge: where it begins, and what comes of its steps or of its formula."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.merging.learn.learning import ClosedForm, Learning
from allround.merging.learn.low_rank import LowRankSteps, can_be_factored, gather_factors, placeholders
from allround.merging.learn.material import Changes, Rows, gather_changes
from allround.merging.learn.parametrisation import Parametrisation
from allround.merging.learn.steps import Execution, LearningSteps, to_device
from allround.merging.statistics.sequential import regmean_pp
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.encoder import Encoder
from allround.models.head import HeadState


@dataclass(frozen=True)
class Fit:
    """What one learned merge gives: merged weights and buffers, the learned numbers and heads by name, and facts for
    the record."""

    weights: dict[str, Tensor]
    found: dict[str, Tensor]
    heads: dict[str, HeadState]
    facts: dict[str, object]


def fit_merge(
    shell: Encoder,
    encoders: Sequence[Path],
    rows: Mapping[str, Rows],
    learning: Learning,
    start: Path | str | None,
    execution: Execution,
) -> Fit:
    """Learn one merge of the encoders in some folders.

    shell: the base; it ends with other weights. rows: of the tasks, by name. start: an encoder folder to begin from.
    """
    device, progress = execution.device, execution.progress
    if isinstance(learning, ClosedForm):
        return _fit_closed_form(shell, encoders, rows, learning, device)
    entry = registry.find("parametrisation", learning.parametrisation)
    settings = {"scale": learning.scale, **learning.settings}
    factors = gather_factors(shell, encoders) if can_be_factored(learning, entry.load(), start) else None
    if factors:
        parts = placeholders(factors, len(encoders), device)
        low = LowRankSteps(shell, entry.load()({}, {}, parts, **settings), factors, rows, learning, execution)
        facts = low.run()
        return _finished(low, low.merged(), facts)
    changes = gather_changes(shell, encoders, keep=learning.keep, elect=learning.elect, centred=learning.centred)
    begun = start_of(changes, learning.scale, load_encoder(start) if start is not None else None)
    if not changes.deltas:
        progress.say("none of the models differs from the base: there is nothing to learn")
        return Fit(begun, {}, {}, {"steps": 0, "skipped": 0, "rows_seen": 0, "losses": []})
    made: Parametrisation = entry.load()(
        to_device(changes.base, device),
        to_device(begun, device),
        to_device(changes.deltas, device),
        **settings,
    )
    steps = LearningSteps(shell, made, begun, rows, learning, execution)
    facts = steps.run()
    merged = {n: t.detach().to("cpu", begun[n].dtype) for n, t in steps.weights().items()}
    return _finished(steps, {**begun, **merged}, facts)


def _finished(steps: LearningSteps, weights: Mapping[str, Tensor], facts: Mapping[str, object]) -> Fit:
    """What the steps have learned. weights: merged, on any device."""
    found = {n: p.detach().cpu().clone() for n, p in steps.made.named_parameters()}
    heads = {task: head.stored() for task, head in steps.heads.items() if steps.rows[task].owns_head}
    learned = heads if steps.learning.heads == "learned" else {}
    on_cpu = {n: t.cpu() for n, t in weights.items()}
    return Fit(on_cpu, found, learned, {**facts, **steps.made.describe()})


def _fit_closed_form(
    shell: Encoder, encoders: Sequence[Path], rows: Mapping[str, Rows], learning: ClosedForm, device: torch.device
) -> Fit:
    """RegMean++: the models are in memory together."""
    models = {str(n): load_encoder(folder).to(device) for n, folder in enumerate(encoders)}
    shell.to(device)
    batches: dict[str, list[Batch]] = {name: [] for name in models}
    for task in rows.values():
        passed = task.batches(learning.step_rows, math.ceil(len(task.prepared) / learning.step_rows))
        batches[str(task.model)] += [task.batch(shell, numbers, device)[0] for numbers in passed]
    weights = regmean_pp(shell, models, batches, **learning.form_settings)
    floating = [name for name, buffer in shell.named_buffers() if buffer.is_floating_point()]
    buffers = gather_changes(shell.to("cpu"), encoders).buffers if floating else {}
    facts: dict[str, object] = {
        "steps": 0,
        "skipped": 0,
        "rows_seen": sum(len(r.prepared) for r in rows.values()),
        "losses": [],
    }
    return Fit({**buffers, **{n: w.cpu() for n, w in weights.items()}}, {}, {}, facts)


def start_of(changes: Changes, scale: float, given: Encoder | None) -> dict[str, Tensor]:
    """Where learning begins, all floating weights and buffers: a given encoder's, or base + scale * sum of changes."""
    if given is None:
        summed = {n: (changes.base[n] + scale * d.sum(0)).to(d.dtype) for n, d in changes.deltas.items()}
        return {**changes.base, **summed, **changes.buffers}
    own = {**dict(given.named_parameters()), **dict(given.named_buffers())}
    wrong = [n for n, w in {**changes.base, **changes.buffers}.items() if n not in own or own[n].shape != w.shape]
    if wrong:
        raise AllroundError(
            "begin from the start that is given",
            f"{len(wrong)} of its weights are not those of the base, such as '{wrong[0]}'",
            "give a merge of the same models",
        )
    return {n: own[n].detach() for n in {**changes.base, **changes.buffers}}


def set_weights(shell: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Set weights and buffers of an encoder, in place."""
    own = {**dict(shell.named_parameters()), **dict(shell.named_buffers())}
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
