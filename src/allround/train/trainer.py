"""One trainer: a model, one task or many, a number of steps, the best state on validation."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import atomic_file
from allround.core.seeds import seed_everything, seed_of
from allround.models.batches import draw_batches
from allround.models.device import pick_device, precision
from allround.models.model import MultiTaskModel
from allround.tasks.kind import kind
from allround.tasks.metric import better, metric
from allround.tasks.task import Task
from allround.train.settings import Settings

#: Seconds between two saves of unfinished training.
SAVE_EVERY = 30.0


@dataclass
class Course:
    """What happened in a training run: validation scores at each evaluation, and what it took."""

    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    steps: int = 0
    examples: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: int = 0


def train(
    model: MultiTaskModel,
    tasks: Sequence[Task],
    settings: Settings,
    *,
    seed: int = 0,
    scratch: Path | None = None,
    adapter: Path | None = None,
) -> Course:
    """Train the model in place and leave it in its best state on validation, unless the settings say otherwise.

    Each step draws one task (`settings.sample`), takes a batch of its training rows, and steps AdamW (or the
    `optimiser` of the settings) on the task's own loss; the rate rises linearly over the first `warmup` of the steps,
    then falls linearly to zero. Validation is scored before the first step and once an epoch. The best state is the
    one with the highest mean over tasks of the validation score relative to the score before the first step; with
    `keep` set to "last", the last one is left instead. With `patience` set, a task that does not get better for that
    many evaluations is drawn no more; when none is left, training ends.

    scratch: a folder in which unfinished training is kept; called again after a kill with the same arguments, it
    goes on there and ends with the same weights. adapter: where the adapter is written when `tune` is "lora".
    A batch whose loss or gradient is not finite is skipped and counted; ten in a row are an error.
    """
    return _Run(model, tasks, settings, seed, scratch, adapter).run()


class _Run:
    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        settings: Settings,
        seed: int,
        scratch: Path | None,
        adapter: Path | None,
    ) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        self.model, self.tasks, self.settings, self.seed = model, list(tasks), settings, seed
        self.adapter = adapter
        self.state_file = scratch / "training.pt" if scratch else None
        seed_everything(seed_of(seed, "train", *([settings.start] if settings.start else [])))
        # Its state is one for the process; each run of ours chooses anew.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=pick_device(settings.device).type == "cpu", mixed_precision=precision_of(settings)
        )
        self.peft = _add_adapter(model, settings) if settings.tune == "lora" else None
        _choose_trainable(model, settings)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

        epochs = settings.epochs or model.encoder.epochs
        self.rate = settings.learning_rate or model.encoder.learning_rate * (4 if self.peft is not None else 1)
        self.sizes = [len(t.splits["train"]) for t in self.tasks]
        self.steps_per_epoch = sum(math.ceil(n / settings.batch_size) for n in self.sizes)
        self.steps = epochs * self.steps_per_epoch
        self.sequence = draw_tasks(self.sizes, self.steps, settings, seed_of(seed, "tasks"))
        kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        self.optimiser = kinds[settings.optimiser](
            list(self.trained.values()), lr=self.rate, weight_decay=settings.weight_decay, fused=True
        )
        self.model, self.optimiser = self.accelerator.prepare(model, self.optimiser)
        self.plain: MultiTaskModel = self.accelerator.unwrap_model(self.model)
        self.prepared = {
            split: [self.plain.encoder.prepare(t.splits[split].inputs, t.definition) for t in self.tasks]
            for split in ("train", "validation")
        }

        self.step, self.stop = round(settings.start * self.steps), round(settings.stop * self.steps)
        if self.step == self.stop:
            raise AllroundError(
                f"train from {settings.start:.3g} to {settings.stop:.3g} of {self.steps} steps",
                "there is no step between",
                "train for more epochs, or in fewer parts",
            )
        self.course = Course(examples={t.name: 0 for t in self.tasks})
        self.drawn = [self.sequence[: self.step].count(index) for index in range(len(self.tasks))]
        self.best: dict[str, Tensor] = {}
        self.best_mean = -math.inf
        self.task_best = [-math.inf] * len(self.tasks)
        self.waits = [0] * len(self.tasks)
        self.bad_in_a_row = 0
        self.batches: dict[tuple[int, int], list[list[int]]] = {}

    def _rate(self, step: int) -> float:
        warm = max(1, round(self.settings.warmup * self.steps))
        return (step + 1) / warm if step < warm else max(0.0, (self.steps - step) / max(1, self.steps - warm))

    def run(self) -> Course:
        before = self._resume()
        self.started = self.saved = time.perf_counter()
        self.seconds_before = before
        if not self.course.evaluations:
            self._evaluate()
        while self.step < self.stop and not all(self._stopped(i) for i in range(len(self.tasks))):
            self._one_step()
            self.step += 1
            if self.step % self.steps_per_epoch == 0 or self.step == self.stop:
                self._evaluate()
            if self.state_file and time.perf_counter() - self.saved > SAVE_EVERY:
                self._save()
        self._finish()
        return self.course

    def _stopped(self, index: int) -> bool:
        """Whether a task has not got better for too long."""
        return self.settings.patience is not None and self.waits[index] >= self.settings.patience

    def _one_step(self) -> None:
        index = self.sequence[self.step]
        if not self._stopped(index):
            task = self.tasks[index]
            rows = self._rows(index)
            batch = self.plain.encoder.collate([self.prepared["train"][index][i] for i in rows], task.definition)
            rules = kind(task.definition.kind)
            targets = rules.tensor(task.splits["train"].take(rows).targets)
            self.model.train()
            with self.accelerator.autocast():
                logits = self.model(task.name, batch.to(self.accelerator.device))
                loss = rules.loss(logits, targets.to(self.accelerator.device), task.definition)
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate * self._rate(self.step)
            self.optimiser.zero_grad()
            finite = bool(torch.isfinite(loss))
            if finite:
                self.accelerator.backward(loss)
                norm = self.accelerator.clip_grad_norm_(list(self.trained.values()), self.settings.clip)
                finite = norm is None or bool(torch.isfinite(norm))
            if finite:
                self.optimiser.step()
                self.bad_in_a_row = 0
            else:
                self._skip(task)
            self.course.examples[task.name] += len(rows)
            self.course.steps += 1

    def _skip(self, task: Task) -> None:
        self.course.skipped += 1
        self.bad_in_a_row += 1
        if self.bad_in_a_row >= 10:
            raise AllroundError(
                f"train on task '{task.name}'",
                "the loss was not a finite number ten times in a row",
                "lower the learning rate, and check the base and the task's inputs",
            )

    def _rows(self, index: int) -> list[int]:
        """The next batch of a task. An epoch visits every row once; its last batch may be smaller."""
        epoch, batch = divmod(self.drawn[index], math.ceil(self.sizes[index] / self.settings.batch_size))
        self.drawn[index] += 1
        if (index, epoch) not in self.batches:
            self.batches = {key: value for key, value in self.batches.items() if key[0] != index}
            lengths = [self.plain.encoder.length(row) for row in self.prepared["train"][index]]
            seed = seed_of(self.seed, "rows", self.tasks[index].name, epoch)
            self.batches[index, epoch] = draw_batches(lengths, self.settings.batch_size, seed)
        return self.batches[index, epoch][batch]

    def _evaluate(self) -> None:
        scores, relative = [], []
        for index, task in enumerate(self.tasks):
            with self.accelerator.autocast():
                outputs = self.plain.outputs_prepared(task.name, self.prepared["validation"][index])
            predicted, _ = self.plain.predict_encoded(task.name, outputs)
            score = metric(task.definition.metric).score(task.splits["validation"].targets, predicted, task.definition)
            scores.append(score)
            first = self.course.evaluations[0]["scores"][task.name] if self.course.evaluations else score
            relative.append(relative_score(score, first, better(task.definition.metric)))
            if relative[-1] > self.task_best[index]:
                self.task_best[index], self.waits[index] = relative[-1], 0
            else:
                self.waits[index] += 1
        mean = sum(relative) / len(relative)
        named = {t.name: s for t, s in zip(self.tasks, scores, strict=True)}
        self.course.evaluations.append({"step": self.step, "scores": named})
        if mean > self.best_mean or self.settings.keep == "last":
            self.best_mean = mean
            self.course.best_step = self.step
            self.best = {n: p.detach().cpu().clone() for n, p in self.trained.items()}

    def _finish(self) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self.best[name])
        if self.peft is not None:
            if self.adapter is not None:
                self.peft.save_pretrained(str(self.adapter))
            self.peft.merge_and_unload()
        for parameter in self.plain.parameters():
            parameter.requires_grad_(True)
        self.plain.eval()
        self.course.seconds = self.seconds_before + time.perf_counter() - self.started
        if self.state_file:
            self.state_file.unlink(missing_ok=True)

    def _save(self) -> None:
        assert self.state_file
        self.course.seconds = self.seconds_before + time.perf_counter() - self.started
        state = {
            "weights": {n: p.detach() for n, p in self.trained.items()},
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.accelerator.device.type == "cuda" else [],
            "step": self.step,
            "drawn": self.drawn,
            "best_mean": self.best_mean,
            "task_best": self.task_best,
            "waits": self.waits,
            "bad_in_a_row": self.bad_in_a_row,
            "course": vars(self.course),
        }
        with atomic_file(self.state_file) as temporary:
            torch.save(state, temporary)
        self.saved = time.perf_counter()

    def _resume(self) -> float:
        """Take up unfinished training, if there is any; the seconds that it had taken."""
        if not self.state_file or not self.state_file.is_file():
            return 0.0
        state: Mapping[str, Any] = torch.load(self.state_file, weights_only=True)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["weights"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = dict(state["best"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        for name in ("step", "drawn", "best_mean", "task_best", "waits", "bad_in_a_row"):
            setattr(self, name, state[name])
        self.course = Course(**state["course"])
        return self.course.seconds


def draw_tasks(sizes: Sequence[int], steps: int, settings: Settings, seed: int) -> list[int]:
    """Which task each step trains: shares by the sampling method, rounded to whole steps, in seeded order.

    >>> sorted(draw_tasks([30, 10], 8, Settings(), seed=0))
    [0, 0, 0, 0, 0, 0, 1, 1]
    """
    entry = registry.find("sample", settings.sample)
    shares = entry.load()(list(sizes), **entry.resolve(settings.sample_settings))
    counts = [math.floor(share * steps) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda t: (counts[t] - shares[t] * steps, t))
    for index in by_remainder[: steps - sum(counts)]:
        counts[index] += 1
    sequence = [index for index, count in enumerate(counts) for _ in range(count)]
    generator = torch.Generator().manual_seed(seed)
    return [sequence[i] for i in torch.randperm(len(sequence), generator=generator).tolist()]


def relative_score(score: float, first: float, direction: str) -> float:
    """A score as a share of the first one, above 1 where it is better.

    >>> relative_score(0.75, 0.5, "higher"), relative_score(0.5, 1.0, "lower")
    (1.5, 2.0)
    """
    small = 0.05  # keeps the ratio in bounds where the first score is about zero
    return score / max(first, small) if direction == "higher" else first / max(score, 1e-12)


def precision_of(settings: Settings) -> str:
    """The precision of matrix products that the settings mean, "bf16" or "no"."""
    return precision(settings.precision, settings.device)


def _add_adapter(model: MultiTaskModel, settings: Settings) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise AllroundError(
            "tune with LoRA", "the package peft is not installed", "pip install 'allround[lora]'"
        ) from (error)
    backbone = model.encoder.backbone
    layers = [n for n, m in backbone.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    config = LoraConfig(r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules=layers)
    with warnings.catch_warnings():  # peft asks transformers for an attribute by its old name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(backbone, config)


def _choose_trainable(model: MultiTaskModel, settings: Settings) -> None:
    for name, parameter in model.named_parameters():
        if name.startswith("heads."):
            parameter.requires_grad_(settings.heads == "tuned")
        elif settings.tune == "lora":
            parameter.requires_grad_("lora_" in name)
        else:
            parameter.requires_grad_(parameter.dtype.is_floating_point)
