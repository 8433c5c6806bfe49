"""One trainer: a model, one task or many, a number of steps, the best state on validation."""

from __future__ import annotations

import math
import pickle
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import atomic_file, hash_json
from allround.core.plugins import contents
from allround.core.reading import check_file
from allround.core.seeds import seed_everything, seed_of
from allround.core.version import __version__
from allround.models.batch import per_row
from allround.models.device import pick_device, precision, products
from allround.models.encoder import hash_tensors
from allround.models.likelihood import likelihood
from allround.models.model import Model, Prepared, device_of
from allround.models.running import by_length
from allround.tasks.metric import better, metric
from allround.tasks.task import Task
from allround.training.balancing import Outline, make_balancer, per_task
from allround.training.feeds import make_feeds
from allround.training.gradients import Gradients, Part, StepResult, check_parts
from allround.training.mix import parse_mix
from allround.training.processes import Processes
from allround.training.sampling import Mixture, arrange, counts_of, make_policy, next_stretch
from allround.training.settings import Settings
from allround.training.term import Term, make_terms

#: Seconds between two saves of unfinished training.
SAVE_EVERY = 30.0
#: Steps in a row without a finite loss or gradient after which a task is an error.
MOST_BAD = 10


@dataclass
class Course:
    """What happened in a training run: validation at each evaluation, and what it took.

    evaluations: `step`, and by task `scores`, mean `losses`, and `weights` in the steps since the evaluation before.
    examples: rows of each task that were trained on. skipped: how often a task was left out of a step because its loss
    or gradient was not finite, in all and for each task.
    """

    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    steps: int = 0
    examples: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: int = 0
    skipped_of: dict[str, int] = field(default_factory=dict)
    backward_passes: int = 0
    restored: list[str] = field(default_factory=list)


def train(
    model: Model,
    tasks: Sequence[Task],
    settings: Settings,
    *,
    seed: int = 0,
    scratch: Path | None = None,
    adapter: Path | None = None,
    terms: Sequence[Term] = (),
) -> Course:
    """Train the model in place and leave it in its best state on validation, unless the settings say otherwise.

    A step holds a batch of one task, or of several (`mix`), drawn as `sample` says; their gradients are balanced as
    `balance` says, and AdamW (or the `optimiser` of the settings) follows them. The rate rises linearly over the first
    `warmup` of the training, then falls linearly to zero. Validation is scored before the first step and once an
    epoch. The best state is the one with the highest mean over tasks of the validation score relative to the score
    before the first step; with `keep` set to "last", the last one is left instead. With `patience` set, a task that
    does not get better for that many evaluations is trained no more; when none is left, training ends.

    scratch: a folder in which unfinished training is kept; called again after a kill with the same arguments, it
    goes on there and ends with the same weights. adapter: where the adapter is written when `tune` is "lora".
    A task whose loss or gradient is not finite is left out of that step and counted, the others are trained; ten such
    steps in a row are an error. Started by `torchrun` in several processes, each computes its share of every batch, and
    the first writes files; the result is that of one process, up to rounding.
    terms: added to those of the settings. A training that is kept in `scratch` goes on with terms of the same classes
    and plain attributes.
    """
    return _Run(model, tasks, settings, seed, scratch, adapter, terms).run()


class _Run:
    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        settings: Settings,
        seed: int,
        scratch: Path | None,
        adapter: Path | None,
        terms: Sequence[Term] = (),
    ) -> None:
        self.terms = [*make_terms(settings.terms), *terms]
        self.model, self.tasks, self.settings, self.seed = model, list(tasks), settings, seed
        _check_tasks(model, self.tasks)
        check_settings(settings, self.tasks)
        self.device = pick_device(settings.device)
        self.processes = Processes(cpu=self.device.type == "cpu")
        first = self.processes.number == 0
        half = first and precision(settings.precision, settings.device) == "bf16"
        # One process decides for all; and a training that goes on does so as it began.
        self.precision = "bf16" if float(self.processes.add(torch.tensor(float(half)))) else "fp32"
        self.adapter = adapter if first else None
        self.state_file = scratch / "training.pt" if scratch else None
        self.made_from = self._made_from() if scratch else ""
        seed_everything(seed_of(seed, "train", *([settings.start] if settings.start else [])))
        self.peft = _add_adapter(model, settings) if settings.tune == "lora" else None
        _choose_trainable(model, settings)
        model.to(self.device)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.trained:
            raise AllroundError("train the model", "the tasks share no weights, and heads are frozen",
                                "let heads be tuned, or use another base")  # fmt: skip
        model.zero_grad()

        self.epochs = settings.epochs or model.epochs
        self.rate = settings.learning_rate or model.learning_rate * (4 if self.peft is not None else 1)
        batching: dict[str, Any] = {
            "batch_size": settings.batch_size,
            "batch_sizes": settings.batch_sizes,
            "seed": seed,
        }
        self.feeds = make_feeds(self.tasks, model, **batching)
        definitions = [self.tasks[feed.tasks[0]].definition for feed in self.feeds]
        kinds = tuple(d.kind for d in definitions)
        self.policy = make_policy(
            settings.sample,
            settings.sample_settings,
            Mixture(tuple(f.name for f in self.feeds), tuple(len(f) for f in self.feeds), kinds),
        )
        self.facts = registry.find("sample", settings.sample).facts
        if registry.find("sample", settings.sample).needs:
            chosen = self.policy.select([_one_each(model, self.tasks[f.tasks[0]].name, f.rows) for f in self.feeds])
            for feed, rows in zip(self.feeds, chosen or [f.use for f in self.feeds], strict=True):
                feed.use = rows
        self.groups, self.most = parse_mix(settings.mix, kinds)
        self.batches_per_epoch = sum(feed.batches for feed in self.feeds)
        self.batches = self.epochs * self.batches_per_epoch

        outline = _outline(self.tasks, self.batches, self.batches_per_epoch)
        self.entry = registry.find("balance", settings.balance)
        rates = per_task(settings.task_rates, outline, "learning rate factors")
        self.gradients = Gradients(
            model,
            self.tasks,
            self.entry,
            lambda: make_balancer(settings.balance, settings.balance_settings, outline),
            processes=self.processes,
            products=lambda: products(self.precision, settings.device),
            raw_scale=settings.raw_scale,
            flat=settings.flat,
            accumulate=settings.accumulate,
            rates=rates,
            terms=self.terms,
            seed=seed,
        )
        self.balancers = self.gradients.balancers
        self.held = make_feeds(self.tasks, model, split="validation", **batching)
        groups: list[dict[str, Any]] = [{"params": self.gradients.shared, "factor": None}]
        groups += [{"params": p, "factor": r} for p, r in zip(self.gradients.heads, rates, strict=True) if p]
        optimisers = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        self.optimiser = optimisers[settings.optimiser](
            [g for g in groups if g["params"]], lr=self.rate, weight_decay=settings.weight_decay, fused=True
        )

        self.done, self.stop = round(settings.start * self.batches), round(settings.stop * self.batches)
        if self.done == self.stop:
            raise AllroundError(
                f"train from {settings.start:.3g} to {settings.stop:.3g} of {self.batches} steps",
                "there is no step between",
                "train for more epochs, or in fewer parts",
            )
        self.course = Course(examples={t.name: 0 for t in self.tasks}, skipped_of={t.name: 0 for t in self.tasks})
        self.step = 0
        self.queue: list[list[int]] = []
        self.drawn = [0] * len(self.feeds)
        self.best: dict[str, Tensor] = {}
        self.best_mean = -math.inf
        self.task_best = [-math.inf] * len(self.tasks)
        self.best_heads: dict[str, dict[str, Tensor]] = {}
        self.waits = [0] * len(self.tasks)
        self.bad_in_a_row = [0] * len(self.tasks)
        self.weighed: dict[str, list[float]] = {t.name: [0.0, 0.0] for t in self.tasks}
        for term in self.terms:
            term.before(model, self.tasks)
        self._skip_to(self.done)

    # -- which feeds a step holds ------------------------------------------------------------------------------------

    def _skip_to(self, done: int) -> None:
        """Draw what comes before a part of the training, without training on it."""
        self.done = 0
        while self.done < done:
            feeds = self._next_feeds()
            for index in feeds:
                self.drawn[index] += 1
            self.done += len(feeds)
            self.step += 1

    def _next_feeds(self) -> list[int]:
        """The feeds of the next step."""
        if not self.queue:
            start = self.done
            end, shares = next_stretch(self.policy, start, self.batches)
            if self.facts["feedback"]:
                evaluation = (start // self.batches_per_epoch + 1) * self.batches_per_epoch
                end = min(end, evaluation)
            if len({f.batch_size for f in self.feeds}) > 1:  # shares are of rows
                shares = [share / feed.batch_size for share, feed in zip(shares, self.feeds, strict=True)]
                shares = [share / sum(shares) for share in shares]
            counts = counts_of(shares, end - start)
            seed = seed_of(self.seed, "tasks", *([start] if start else []))
            self.queue = arrange(counts, self.groups, self.most, seed)
        return self.queue.pop(0)

    def _rate(self, after: int) -> float:
        """The rate at the step with which so many batches are done, as a share of the full one."""
        first, last = 0, self.batches
        if self.facts["restarts"]:
            marks = [0, *(round(c * self.batches) for c in self.policy.changes), self.batches]
            first, last = next(((a, b) for a, b in pairwise(marks) if a < after <= b), (0, self.batches))
        length, after = last - first, after - first
        before = self.done - first
        warm = max(1, round(self.settings.warmup * length))
        return min(1.0, after / warm) if before < warm else max(0.0, (length - before) / max(1, length - warm))

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> Course:
        before = self._resume()
        done = torch.tensor([self.done], dtype=torch.float64)
        if int(self.processes.add(done)) != self.done * self.processes.count:
            raise AllroundError("go on with the training", "its processes do not see the same unfinished training",
                                "put it into a folder that all machines share")  # fmt: skip
        self.started = self.saved = time.perf_counter()
        self.seconds_before = before
        if not self.course.evaluations:
            self._evaluate()
        while self.done < self.stop and not all(self._stopped(i) for i in range(len(self.tasks))):
            epoch = self.done // self.batches_per_epoch
            self._one_step()
            self.step += 1
            if self.done // self.batches_per_epoch > epoch or self.done >= self.stop:
                self._evaluate()
            if self.state_file and time.perf_counter() - self.saved > SAVE_EVERY:
                self._save()
        self._finish()
        return self.course

    def _stopped(self, index: int) -> bool:
        """Whether a task has not got better for too long."""
        return self.settings.patience is not None and self.waits[index] >= self.settings.patience

    def _one_step(self) -> None:
        feeds = self._next_feeds()
        parts = [self._part(index) for index in feeds]
        parts = [part for part in parts if part.tasks]
        if parts:
            self.model.train()
            held = []
            if "validation" in self.entry.needs:
                held = [Part(f, f.batch(self.step % f.batches), list(f.tasks), "validation") for f in self.held]
            taken = self.gradients.step(parts, self.step, self.done / self.batches, held)
            taken = self._clipped(self._with_terms(taken))
            self._count(parts, taken)
            if taken.seen is not None:
                rate = self.rate * self._rate(self.done + len(feeds))
                for group in self.optimiser.param_groups:
                    group["lr"] = rate * (taken.rate if group["factor"] is None else group["factor"])
                self.optimiser.step()
                for term in self.terms:
                    term.stepped(self.model)
                if "after" in self.entry.needs:
                    losses = self.gradients.losses(parts, taken.seen.tasks.tolist())
                    if losses.isfinite().all():
                        self.balancers[0].stepped(taken.seen, losses)
            self.course.steps += 1
        self.done += len(feeds)

    def _with_terms(self, taken: StepResult) -> StepResult:
        """The step with the gradients of the terms' penalties, and what the terms make of it all."""
        if taken.seen is None:
            return taken
        for term in self.terms:
            penalty = term.penalty(self.model)
            if penalty is not None and penalty.requires_grad:
                penalty.backward()
        for term in self.terms:
            term.edit(self.model)
        return taken

    def _clipped(self, taken: StepResult) -> StepResult:
        """The step with a gradient no longer than `clip`. A sum of finite gradients that is not finite is no step."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings.clip)
        if taken.seen is None or bool(norm.isfinite()):
            return taken
        return StepResult(None, (), (*taken.bad, *taken.seen.tasks.tolist()))

    def _part(self, index: int) -> Part:
        """The next batch of a feed."""
        feed = self.feeds[index]
        rows = feed.batch(self.drawn[index])
        self.drawn[index] += 1
        return Part(feed, rows, [t for t in feed.tasks if not self._stopped(t)])

    def _count(self, parts: Sequence[Part], taken: StepResult) -> None:
        """Keep count of rows, of weights, and of tasks that were left out."""
        for part in parts:
            for index in part.tasks:
                rows = int((part.feed.places[index][part.rows] >= 0).sum())
                self.course.examples[self.tasks[index].name] += rows
        seen = taken.seen.tasks.tolist() if taken.seen is not None else []
        for index, weight in zip(seen, taken.weights, strict=True):
            self.bad_in_a_row[index] = 0
            kept = self.weighed[self.tasks[index].name]
            kept[:] = kept[0] + weight, kept[1] + 1
        for index in taken.bad:
            self.course.skipped += 1
            self.course.skipped_of[self.tasks[index].name] += 1
            self.bad_in_a_row[index] += 1
            if self.bad_in_a_row[index] >= MOST_BAD:
                raise AllroundError(
                    f"train on task '{self.tasks[index].name}'",
                    "the loss or its gradient was not a finite number ten times in a row",
                    "lower the learning rate, and check the base and the task's inputs",
                )
        self.course.backward_passes = self.gradients.backward_passes

    def _changed(self) -> dict[str, Tensor]:
        """All that training changes: trained weights, and what modules count along, such as running means."""
        counted, lasting = dict(self.model.named_buffers()), self.model.state_dict(keep_vars=True)
        return {**self.trained, **{name: counted[name] for name in lasting if name in counted}}

    def _evaluate(self) -> None:
        for name, tensor in self._changed().items():
            if name not in self.trained and tensor.is_floating_point() and self.processes.count > 1:
                tensor.copy_(self.processes.add(tensor / self.processes.count))
        scores, relative, losses = [], [], []
        for index, task in enumerate(self.tasks):
            score, loss = self._validate(index)
            scores.append(score)
            losses.append(loss)
            first = self.course.evaluations[0]["scores"][task.name] if self.course.evaluations else score
            relative.append(relative_score(score, first, better(task.definition.metric)))
            if relative[-1] > self.task_best[index]:
                self.task_best[index], self.waits[index] = relative[-1], 0
                if self.settings.restore_heads:
                    own = self.model.own(task.name)
                    self.best_heads[task.name] = {n: v.detach().cpu().clone() for n, v in own.items()}
            else:
                self.waits[index] += 1
        for balancer in self.balancers:
            balancer.evaluated(torch.tensor(losses, dtype=torch.float64))
        of_feeds = [[relative[t] for t in feed.tasks] for feed in self.feeds]
        progress = self.done / self.batches if self.course.evaluations else 0.0
        self.policy.evaluated([sum(r) / len(r) for r in of_feeds], progress)
        mean = sum(relative) / len(relative)
        names = [t.name for t in self.tasks]
        found = {"step": self.step, "scores": dict(zip(names, scores, strict=True)),
                 "losses": dict(zip(names, losses, strict=True))}  # fmt: skip
        weights = {n: total / count for n, (total, count) in self.weighed.items() if count}
        if weights:
            found["weights"] = weights
        self.weighed = {n: [0.0, 0.0] for n in names}
        self.course.evaluations.append(found)
        if mean > self.best_mean or self.settings.keep == "last":
            self.best_mean = mean
            self.course.best_step = self.step
            self.best = {n: t.detach().cpu().clone() for n, t in self._changed().items()}

    def _validate(self, index: int) -> tuple[float, float]:
        """Score and mean loss of a task on its validation rows."""
        task = self.tasks[index]
        about, split = task.definition, task.splits["validation"]
        feed = next(f for f in self.held if index in f.tasks)
        rows = [i for i in range(len(feed.rows)) if feed.places[index][i] >= 0]
        split = split.take([int(feed.places[index][i]) for i in rows])
        with products(self.precision, self.settings.device):
            answers, loss = self.model.validate(task.name, [feed.rows[i] for i in rows], split.targets)
        return metric(about.metric).score(split.targets, answers.predictions, about), loss

    def _finish(self) -> None:
        with torch.no_grad():
            for name, tensor in self._changed().items():
                tensor.copy_(self.best[name])
        self.model.zero_grad()
        if self.settings.restore_heads:
            self._restore_heads()
        if self.peft is not None:
            if self.adapter is not None:
                self.peft.save_pretrained(str(self.adapter))
            self.peft.merge_and_unload()
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        self.model.eval()
        for term in self.terms:
            term.after(self.model)
        self.course.seconds = self.seconds_before + time.perf_counter() - self.started
        if self.state_file and self.processes.number == 0:
            self.state_file.unlink(missing_ok=True)
            for left in self.state_file.parent.glob(f".{self.state_file.name}.*"):
                left.unlink()  # by atomic_file, in a run that was killed

    def _restore_heads(self) -> None:
        """Give a task the head that it had when it scored best, where that scores better with the final encoder."""
        for index, task in enumerate(self.tasks):
            own, direction = self.model.own(task.name), better(task.definition.metric)
            now, (score, _) = {n: v.detach().clone() for n, v in own.items()}, self._validate(index)
            _put(own, self.best_heads[task.name])
            again, _ = self._validate(index)
            if again > score if direction == "higher" else again < score:
                self.course.restored.append(task.name)
            else:
                _put(own, now)

    # -- going on after a kill ---------------------------------------------------------------------------------------

    #: What is kept as it is.
    _KEPT = ("made_from", "precision", "step", "done", "queue", "drawn", "best", "best_mean", "best_heads",
             "task_best", "waits", "bad_in_a_row", "weighed")  # fmt: skip

    def _made_from(self) -> str:
        """What tells this training from others; the device and the number of processes may change on the way."""
        settings = {name: value for name, value in self.settings.to_json().items() if name != "device"}
        tasks = [t.content for t in self.tasks]
        made_from = [__version__, settings, self.seed, tasks, hash_tensors(self.model), self.model.preparation]
        made_from += [[type(t).__qualname__, _plain(vars(t))] for t in self.terms]
        used = contents(made_from)
        return hash_json([*made_from, used] if used else made_from)

    def _save(self) -> None:
        self.saved = time.perf_counter()
        if self.processes.number:
            return
        assert self.state_file
        self.course.seconds = self.seconds_before + time.perf_counter() - self.started
        state = {
            **{name: getattr(self, name) for name in self._KEPT},
            "weights": {n: t.detach() for n, t in self._changed().items()},
            "optimiser": self.optimiser.state_dict(),
            "balancers": [b.by_task() for b in self.balancers],
            "terms": [term.state for term in self.terms],
            "policy": self.policy.state,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "course": vars(self.course),
        }
        with atomic_file(self.state_file) as temporary:
            torch.save(state, temporary)
        self.saved = time.perf_counter()

    def _resume(self) -> float:
        """Take up unfinished training, if there is any; the seconds that it had taken."""
        if not self.state_file or not self.state_file.is_file():
            return 0.0
        state = self._read_state(self.state_file)
        with torch.no_grad():
            for name, tensor in self._changed().items():
                tensor.copy_(state["weights"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        for balancer, kept in zip(self.balancers, state["balancers"], strict=True):
            balancer.take(kept)
        for term, remembered in zip(self.terms, state["terms"], strict=True):
            term.state = remembered
        self.policy.state.update(state["policy"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["random_cuda"])
        for name in self._KEPT:
            setattr(self, name, state[name])
        self.course = Course(**state["course"])
        self.gradients.backward_passes = self.course.backward_passes
        return self.course.seconds

    def _read_state(self, path: Path) -> Mapping[str, Any]:
        asked = f"go on with the training in {path}"
        check_file(path, asked=asked)
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, LookupError, ValueError, pickle.UnpicklingError) as error:
            raise AllroundError(
                asked, f"the file is damaged: {type(error).__name__}: {error}", "remove it to begin anew"
            ) from error
        if not isinstance(state, dict) or state.get("made_from") != self.made_from:
            raise AllroundError(
                asked,
                "it was begun with other settings, tasks or seed, from another base or heads, or by another version",
                "give the same ones, or remove the file to begin anew",
            )
        return state


def check_settings(settings: Settings, tasks: Sequence[Task]) -> None:
    """Find settings that do not fit the tasks, before anything is computed."""
    entry, outline = registry.find("balance", settings.balance), _outline(tasks)
    balancer = make_balancer(settings.balance, settings.balance_settings, outline)
    check_parts(entry, settings.flat, settings.accumulate)
    per_task(settings.task_rates, outline, "learning rate factors")
    known = {n for t in tasks for n in (t.name, t.table, t.definition.kind) if n}
    for name in settings.batch_sizes:
        if name not in known:
            raise AllroundError(
                f"set the batch size of '{name}'", "no task, table or kind of task is called so",
                f"use one of: {', '.join(sorted(known))}",
            )  # fmt: skip
    tables = [t.table for t in tasks if t.table]
    most = parse_mix(settings.mix, [t.definition.kind for t in tasks])[1]
    single = most == 1 and len(set(tables)) == len(tables)
    if single and len(tasks) > 1 and not balancer.alone(settings.raw_scale or entry.facts["raw"]):
        raise AllroundError(
            f"balance by '{settings.balance}' with steps of one task each",
            f"'{settings.balance}' weighs the tasks of a step against each other",
            "let a step hold several tasks: mix=all (--mix all)",
        )


def _outline(tasks: Sequence[Task], steps: int = 1, epoch: int = 1) -> Outline:
    return Outline(
        tuple(t.name for t in tasks),
        tuple(likelihood(t.definition).outputs(t.definition) for t in tasks),
        tuple(len(t.splits["train"]) for t in tasks),
        steps=steps,
        epoch=epoch,
    )


def relative_score(score: float, first: float, direction: str) -> float:
    """A score as a share of the first one, above 1 where it is better.

    >>> relative_score(0.75, 0.5, "higher"), relative_score(0.5, 1.0, "lower")
    (1.5, 2.0)
    """
    small = 0.05  # keeps the ratio in bounds where the first score is about zero
    return score / max(first, small) if direction == "higher" else first / max(score, 1e-12)


@torch.inference_mode()
def _one_each(model: Model, task: str, rows: Sequence[Prepared]) -> Tensor:
    """One vector for each row on the CPU: its features, or the mean over its words."""
    model.eval()
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for numbers in by_length([model.size(row) for row in rows], 64):
        batch = model.collate([rows[n] for n in numbers], {task: range(len(numbers))}).to(device_of(model))
        features = model.features(batch)
        values = features.values.float().cpu()
        if features.lengths:
            words = per_row(values, features.lengths)
            values = torch.stack([w.mean(0) if len(w) else values.new_zeros(values.shape[1]) for w in words])
        for number, value in zip(numbers, values, strict=True):
            found[number] = value
    return torch.stack(found)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain ones of a term's attributes: its parameters."""
    return {n: v for n, v in values.items() if isinstance(v, bool | int | float | str)}


def _put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def _check_tasks(model: Model, tasks: Sequence[Task]) -> None:
    """Refuse tasks that cannot be trained."""
    if not tasks:
        raise AllroundError("train on no task", "there is nothing to learn", "give one task or more")
    names = [task.name for task in tasks]
    for task in tasks:
        model.definition(task.name)
        asked = f"train on task '{task.name}'"
        if names.count(task.name) > 1:
            raise AllroundError(asked, "two tasks have that name", "give each task once, and its own name")
        for split in ("train", "validation"):
            if not len(task.splits.get(split, ())):
                raise AllroundError(asked, f"it has no {split} rows", "give it some, or leave it out")


def _add_adapter(model: Model, settings: Settings) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise AllroundError(
            "tune with LoRA", "the package peft is not installed", "pip install 'allround[lora]'"
        ) from (error)
    backbone = model.backbone
    layers = [n for n, m in backbone.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    config = LoraConfig(r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules=layers)
    with warnings.catch_warnings():  # peft asks transformers for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(backbone, config)


def _choose_trainable(model: Model, settings: Settings) -> None:
    own = {id(p) for task in model.definitions for p in model.own(task).values()}
    for name, parameter in model.named_parameters():
        if id(parameter) in own:
            parameter.requires_grad_(settings.heads == "tuned")
        elif settings.tune == "lora":
            parameter.requires_grad_("lora_" in name)
        else:
            parameter.requires_grad_(parameter.dtype.is_floating_point)
