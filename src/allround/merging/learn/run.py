"""Learning a merge: material, start, steps, and the merged model that comes of it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from allround.checkpoints.finite import check_finite
from allround.checkpoints.header import FLOATS, torch_dtype
from allround.checkpoints.weights import Weights
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import read_settings
from allround.core.progress import Progress
from allround.core.seeds import seed_everything, seed_of
from allround.merging.learn.guard import ROWS, Guard, distance
from allround.merging.learn.learning import ClosedForm, Learning
from allround.merging.learn.material import Changes, Rows, Specialist, gather_changes, gather_rows
from allround.merging.learn.objective import Response
from allround.merging.learn.parametrisation import Parametrisation
from allround.merging.statistics.sequential import regmean_pp
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.device import pick_device, products
from allround.models.device import precision as named_precision
from allround.models.encoder import CONFIG, Encoder
from allround.models.fitting import fit_head
from allround.models.head import LINEAR, HeadState
from allround.tasks.task import Task


@dataclass
class LearnedMerge:
    """A merged encoder, the heads of the tasks, what was learned, and how.

    found: the learned numbers by name, enough to make the merge again from the same models; in groups each name begins
    with the number of its stage. record: for JSON.
    """

    encoder: Encoder
    heads: dict[str, HeadState]
    found: dict[str, Tensor]
    record: dict[str, Any] = field(default_factory=dict)


def learn(
    base: Path | str,
    specialists: Sequence[Specialist],
    tasks: Mapping[str, Task],
    learning: Learning,
    *,
    split: str | None = None,
    start: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> LearnedMerge:
    """Merge specialists by numbers that are learned on rows of their tasks.

    base: the encoder folder they were tuned from. split: where rows come from, by default `learning.split`; with "test"
    labels are refused.
    start: an encoder folder to begin from, such as a fixed merge; by default the base and the scaled sum of changes.
    The same inputs and seed give the same model on the same machine.
    """
    split = split or learning.split
    learning.check_split(split)
    names = [name for one in specialists for name in one.tasks]
    lacking = [name for name in names if name not in tasks]
    if lacking:
        raise AllroundError(
            f"learn a merge of {len(specialists)} models",
            f"there are no rows for the task '{lacking[0]}'",
            f"give the data of all tasks; there is: {', '.join(tasks) or 'nothing'}",
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise AllroundError(
            f"learn a merge of {len(specialists)} models",
            f"the task '{twice[0]}' is given twice",
            "give each task once: a merged model has one head for each",
        )
    learning.check(tasks[name].definition for name in names)
    if len(specialists) < 2:
        raise AllroundError("learn a merge", f"{len(specialists)} model is given", "give at least two")
    started = time.perf_counter()
    where = pick_device(device)
    precision = named_precision(precision, where.type)
    progress = progress or Progress(None)
    shell = _open(base, [one.encoder for one in specialists])
    rows = gather_rows(shell, specialists, tasks, learning, split=split, seed=seed, device=where, precision=precision)
    progress.say(f"{sum(len(r.prepared) for r in rows.values())} {split} rows of {len(rows)} tasks are ready")
    heads = {name: r.head.stored() for name, r in rows.items() if r.head is not None}
    record: dict[str, Any] = {
        "learning": learning.to_json(),
        "split": split,
        "rows": {name: len(r.prepared) for name, r in rows.items()},
        "seed": seed,
        "device": where.type,
        "precision": precision,
    }
    if learning.centred and start is not None:
        raise AllroundError(
            "begin from a start of your own", "changes from the mean of the models begin there", "give no start"
        )
    if learning.group and len(specialists) > learning.group:
        if start is not None:
            raise AllroundError("merge in groups from a start of your own", "each group begins anew", "give no start")
        fitted = _in_groups(shell, specialists, rows, learning, seed, where, precision, progress)
    else:
        fitted = _fit(shell, [s.encoder for s in specialists], rows, learning, start, seed, where, precision, progress)
    weights, found, own_heads, facts = fitted
    _set(shell, weights)
    heads.update(own_heads)
    if learning.heads == "fitted":
        for name in rows:
            progress.say(f"fitting the head of {name} on the merged encoder")
            sort = heads[name].sort if name in heads else LINEAR
            heads[name] = fit_head(shell.to(where), tasks[name], sort).state
    shell.to("cpu", _stored_dtype(base))
    tensors = [*shell.named_parameters(), *((f"{t}.{k}", v) for t, head in heads.items() for k, v in head.items())]
    check_finite(tensors, "learn a merge", "the learned model", "take a smaller rate, or other rows")
    record.update(facts, seconds=round(time.perf_counter() - started, 3))
    return LearnedMerge(shell.eval(), heads, found, record)


def _stored_dtype(folder: Path | str) -> torch.dtype:
    """The dtype of a model's largest weight in its files. What is merged comes out in the base's."""
    weights = Weights(folder)
    floats = [name for name in weights if weights.dtype(name) in FLOATS]
    return torch_dtype(weights.dtype(max(floats, key=weights.numel))) if floats else torch.float32


def _open(base: Path | str, encoders: Sequence[Path]) -> Encoder:
    """The base, reading rows as its own folder says, or as the models do where it does not say."""
    if (Path(base) / CONFIG).is_file():
        return load_encoder(base)
    settings = [read_settings(e / CONFIG).get("settings", {}) if (e / CONFIG).is_file() else {} for e in encoders]
    for one in settings:
        if one != settings[0]:
            raise AllroundError(
                f"learn a merge of {len(encoders)} models",
                f"they read rows in different ways: {settings[0]} and {one}",
                "give models that were tuned with the same settings of the encoder",
            )
    return load_encoder(base, **settings[0])


_Fitted = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, HeadState], dict[str, Any]]


def _fit(
    shell: Encoder,
    encoders: Sequence[Path],
    rows: Mapping[str, Rows],
    learning: Learning,
    start: Path | str | None,
    seed: int,
    device: torch.device,
    precision: str,
    progress: Progress,
) -> _Fitted:
    """Learn one merge: merged weights and buffers, learned numbers, learned heads, facts."""
    if isinstance(learning, ClosedForm):
        return _closed(shell, encoders, rows, learning, device)
    changes = gather_changes(shell, encoders, keep=learning.keep, elect=learning.elect, centred=learning.centred)
    begun = start_of(changes, learning.scale, load_encoder(start) if start is not None else None)
    if not changes.deltas:
        progress.say("none of the models differs from the base: there is nothing to learn")
        return begun, {}, {}, {"steps": 0, "skipped": 0, "rows_seen": 0, "losses": []}
    entry = registry.find("parametrisation", learning.parametrisation)
    made: Parametrisation = entry.load()(
        _to(changes.base, device),
        _to(begun, device),
        _to(changes.deltas, device),
        **{"scale": learning.scale, **learning.settings},
    )
    steps = _Steps(shell, made, begun, rows, learning, seed, device, precision, progress)
    facts = steps.run()
    merged = {n: t.detach().to("cpu", begun[n].dtype) for n, t in steps.weights().items()}
    found = {n: p.detach().cpu().clone() for n, p in made.named_parameters()}
    heads = {task: head.stored() for task, head in steps.heads.items()}
    return {**begun, **merged}, found, heads if learning.heads == "learned" else {}, {**facts, **made.describe()}


def _closed(
    shell: Encoder, encoders: Sequence[Path], rows: Mapping[str, Rows], learning: ClosedForm, device: torch.device
) -> _Fitted:
    """RegMean++: the models are in memory together."""
    models = {str(n): load_encoder(folder).to(device) for n, folder in enumerate(encoders)}
    shell.to(device)
    batches: dict[str, list[Batch]] = {name: [] for name in models}
    for task in rows.values():
        passed = task.batches(learning.batch, math.ceil(len(task.prepared) / learning.batch))
        batches[str(task.model)] += [task.batch(shell, numbers, device)[0] for numbers in passed]
    weights = regmean_pp(shell, models, batches, **learning.form_settings)
    floating = [name for name, buffer in shell.named_buffers() if buffer.is_floating_point()]
    buffers = gather_changes(shell.to("cpu"), encoders).buffers if floating else {}
    facts = {"steps": 0, "skipped": 0, "rows_seen": sum(len(r.prepared) for r in rows.values()), "losses": []}
    return {**buffers, **{n: w.cpu() for n, w in weights.items()}}, {}, {}, facts


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


def _in_groups(
    shell: Encoder,
    specialists: Sequence[Specialist],
    rows: Mapping[str, Rows],
    learning: Learning,
    seed: int,
    device: torch.device,
    precision: str,
    progress: Progress,
) -> _Fitted:
    """Merge `learning.group` models at a time, then the merged ones alike, until one is left."""
    level, models = 1, list(specialists)
    stages: list[dict[str, Any]] = []
    found: dict[str, Tensor] = {}
    base = {n: t.detach().clone() for n, t in shell.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="allround-") as folder:
        while True:
            chunks = [models[n : n + learning.group] for n in range(0, len(models), learning.group)]
            merged: list[Specialist] = []
            for number, chunk in enumerate(chunks):
                names = tuple(name for one in chunk for name in one.tasks)
                if len(chunk) == 1:
                    merged.append(chunk[0])
                    continue
                progress.say(f"round {level}, group {number + 1} of {len(chunks)}: {', '.join(names)}")
                mine = {name: rows[name] for name in names}
                shell.load_state_dict(base)
                weights, numbers, learned, facts = _fit(
                    shell, [one.encoder for one in chunk], mine, learning, None, seed, device, precision, progress
                )
                for name, head in learned.items():
                    kept = rows[name].head
                    assert kept is not None
                    kept.load_state_dict(head)
                found.update({f"{len(stages)}.{key}": value for key, value in numbers.items()})
                stages.append({"tasks": list(names), **facts})
                if len(chunks) == 1:
                    heads = {name: r.head.stored() for name, r in rows.items() if r.head is not None}
                    return weights, found, heads if learning.heads == "learned" else {}, {"stages": stages}
                place = Path(folder) / f"{level}-{number}"
                place.mkdir()
                _set(shell, weights)
                shell.to("cpu").save(place)
                merged.append(Specialist(place, names))
            models, level = merged, level + 1


def _set(shell: Encoder, weights: Mapping[str, Tensor]) -> None:
    own = {**dict(shell.named_parameters()), **dict(shell.named_buffers())}
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def _to(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {n: t.to(device) for n, t in weights.items()}


class _Steps:
    """The loop: merged weights once a step, every task's loss with them, one backward into what is learned."""

    def __init__(
        self,
        shell: Encoder,
        made: Parametrisation,
        begun: Mapping[str, Tensor],
        rows: Mapping[str, Rows],
        learning: Learning,
        seed: int,
        device: torch.device,
        precision: str,
        progress: Progress,
    ) -> None:
        self.shell, self.made, self.rows, self.learning = shell.to(device).eval(), made, rows, learning
        self.device, self.precision, self.progress, self.seed = device, precision, progress, seed
        self.fixed = _to({n: t for n, t in begun.items() if n not in made.deltas}, device)
        self.dtypes = {n: begun[n].dtype for n in made.deltas}
        given = {name: r.head for name, r in rows.items() if r.head is not None}
        free = learning.heads == "learned"
        self.heads = {name: deepcopy(head).to(device).requires_grad_(free) for name, head in given.items()}
        objective = registry.find("objective", learning.objective)
        settings = objective.resolve(learning.objective_settings)
        function = objective.load()
        self.objective = lambda *given: function(*given, **settings)
        self.skipped = self.skipped_in_a_row = 0
        learned = [*made.parameters(), *(p for h in self.heads.values() for p in h.parameters() if p.requires_grad)]
        self.guard = Guard(learned) if learning.guard and learning.all_steps else None

    def run(self) -> dict[str, Any]:
        """Take all steps; what happened."""
        seed_everything(seed_of(self.seed, "learn"))
        parts = self.made.parts()
        phases = self.learning.phases or (("", self.learning.steps),)
        losses: list[float] = []
        batches = {n: r.batches(self.learning.batch, self.learning.all_steps) for n, r in self.rows.items()}
        looks = {round(quarter * self.learning.all_steps / 4) for quarter in range(1, 5)}
        self._look(0)
        with self.progress.stage("learning", self.learning.all_steps) as stage:
            for phase, steps in phases:
                if phase and phase not in parts:
                    known = ", ".join(parts) or "nothing"
                    raise AllroundError(f"learn '{phase}'", f"'{self.learning.parametrisation}' has: {known}",
                                        "use the phases that it has")  # fmt: skip
                chosen = {phase: parts[phase]} if phase else parts
                for name, part in parts.items():
                    for parameter in part:
                        parameter.requires_grad_(name in chosen)
                optimiser = self._optimiser(chosen)
                for number in range(steps):
                    if self.learning.decay:
                        for group in optimiser.param_groups:
                            group["lr"] = group["initial_lr"] * 0.5 * (1 + math.cos(math.pi * number / steps))
                    losses.append(self._step(optimiser, {n: b[len(losses)] for n, b in batches.items()}))
                    stage.advance()
                    if len(losses) in looks:
                        self._look(len(losses))
        if losses and self.skipped == len(losses):
            raise self._no_number()
        self.made.eval()
        return {
            **(self.guard.take_back() if self.guard else {}),
            "steps": len(losses),
            "skipped": self.skipped,
            "rows_seen": sum(len(b) for listed in batches.values() for b in listed),
            "losses": [round(loss, 6) for loss in losses if math.isfinite(loss)],
        }

    def _optimiser(self, parts: Mapping[str, Any]) -> torch.optim.Optimizer:
        rates = self.made.rates()
        groups = [{"params": p, "lr": self.learning.rate * rates.get(name, 1.0)} for name, p in parts.items()]
        if self.learning.heads == "learned":
            heads = [p for head in self.heads.values() for p in head.parameters()]
            groups.append({"params": heads, "lr": self.learning.head_rate})
        if not groups:
            raise AllroundError(f"learn '{self.learning.parametrisation}'", "nothing in it is free", "give it a level")
        for group in groups:
            group["initial_lr"] = group["lr"]
        if self.learning.optimiser == "sgd":
            return torch.optim.SGD(groups, weight_decay=self.learning.weight_decay)
        kind = torch.optim.Adam if self.learning.optimiser == "adam" else torch.optim.AdamW
        return kind(groups, weight_decay=self.learning.weight_decay)

    def weights(self) -> dict[str, Tensor]:
        """The merged weights as they are now, with the graph to what is learned."""
        found: dict[str, Tensor] = self.made()
        return found

    def _step(self, optimiser: torch.optim.Optimizer, batches: Mapping[str, list[int]]) -> float:
        self.made.train()
        merged = self.weights()
        leaves = {n: t.detach().to(self.dtypes[n]).requires_grad_() for n, t in merged.items()}
        optimiser.zero_grad()
        total = 0.0
        for name, numbers in batches.items():
            loss = self._loss(name, numbers, leaves)
            loss.backward()
            total += float(loss.detach()) / len(batches)
        grads = {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None and merged[n].requires_grad}
        torch.autograd.backward([merged[n] for n in grads], [g.to(merged[n].dtype) for n, g in grads.items()])
        free = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in free])
        if math.isfinite(total) and bool(torch.isfinite(norm)):
            if self.learning.clip:
                torch.nn.utils.clip_grads_with_norm_(free, self.learning.clip, norm)
            optimiser.step()
            self.skipped_in_a_row = 0
        else:
            self._skip()
        return total

    def _answers(
        self, name: str, numbers: Sequence[int], weights: Mapping[str, Tensor]
    ) -> tuple[Response, Response, Tensor]:
        """The merged model's answers to rows of a task, the specialist's, and the targets."""
        batch, given, targets = self.rows[name].batch(self.shell, numbers, self.device)
        with products(self.precision, self.device.type):
            features = functional_call(self.shell, {**self.fixed, **weights}, (batch,), strict=False).values
            logits = None
            if name in self.heads:
                head = self.heads[name]
                alike = {n: p.to(features.dtype) for n, p in head.named_parameters()}
                logits = functional_call(head, alike, (features,))
        return Response(features, logits), given, targets

    def _loss(self, name: str, numbers: Sequence[int], leaves: Mapping[str, Tensor]) -> Tensor:
        merged, given, targets = self._answers(name, numbers, leaves)
        loss: Tensor = self.objective(merged, given, targets, self.rows[name].definition)
        return loss

    @torch.no_grad()
    def _look(self, step: int) -> None:
        """Show the guard how far the merged model's answers are from the specialists', summed over the tasks."""
        if self.guard is None:
            return
        self.made.eval()
        merged = {n: t.to(self.dtypes[n]) for n, t in self.weights().items()}
        total = 0.0
        for name, rows in self.rows.items():
            count = len(rows.prepared)
            chosen = range(0, count, math.ceil(count / ROWS))
            for first in range(0, len(chosen), self.learning.batch):
                numbers = chosen[first : first + self.learning.batch]
                answers, given, _ = self._answers(name, numbers, merged)
                total += float(distance(answers, given, rows.definition)) * len(numbers) / len(chosen)
        self.guard.see(step, total)

    def _skip(self) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= 10:
            raise self._no_number()

    def _no_number(self) -> AllroundError:
        return AllroundError(
            f"learn a merge by '{self.learning.objective}'",
            f"the loss or its gradient was not finite in {self.skipped_in_a_row} steps in a row",
            "lower the rate or the scale, and check the models",
        )
