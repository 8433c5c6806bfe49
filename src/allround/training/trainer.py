"""One trainer: a model, one task or many, a number of steps, the best state on validation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_everything, seed_of
from allround.models.device import pick_device, precision, products
from allround.models.model import Model
from allround.tasks.task import Task
from allround.training.balancing import make_balancer, per_task
from allround.training.callback import Callback
from allround.training.course import Course, Evaluation
from allround.training.feeds import Feed, enough_epochs, make_feeds
from allround.training.gradients import Gradients, StepResult
from allround.training.losses import Part
from allround.training.optimiser import follow_rate, make_optimiser
from allround.training.preconditions import (
    check_heads,
    check_settings,
    check_tasks,
    check_terms,
    check_whole,
    outline_of,
)
from allround.training.processes import Processes
from allround.training.row_choice import choose_rows
from allround.training.sampling import Mixture, make_policy
from allround.training.schedule import Schedule
from allround.training.settings import Settings
from allround.training.term import Term, make_terms
from allround.training.trainable import add_adapter, choose_trainable
from allround.training.unfinished import UnfinishedTraining, hash_training
from allround.training.validation import Validation, copy_into

#: Steps in a row without a finite loss or gradient after which a task is an error.
MOST_BAD = 10


def train(
    model: Model,
    tasks: Sequence[Task],
    settings: Settings,
    *,
    seed: int = 0,
    scratch: Path | None = None,
    adapter: Path | None = None,
    terms: Sequence[Term] = (),
    callbacks: Sequence[Callback] = (),
    name: str = "training",
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
    and plain attributes. callbacks: are told of steps and evaluations, in the first process. name: of the training, for
    them.
    """
    return TrainingRun(model, tasks, settings, seed, scratch, adapter, terms, callbacks, name).run()


class TrainingRun:
    """One training: what its parts are, and the loop over its steps. `train` says what the arguments are."""

    def __init__(
        self,
        model: Model,
        tasks: Sequence[Task],
        settings: Settings,
        seed: int = 0,
        scratch: Path | None = None,
        adapter: Path | None = None,
        terms: Sequence[Term] = (),
        callbacks: Sequence[Callback] = (),
        name: str = "training",
    ) -> None:
        self.terms = [*make_terms(settings.terms), *terms]
        self.model, self.tasks, self.settings, self.seed = model, list(tasks), settings, seed
        check_tasks(model, self.tasks)
        check_settings(settings, self.tasks)
        check_heads(model, self.tasks, settings)
        check_terms(self.terms, settings)
        self.device = pick_device(settings.device)
        self.processes = Processes(cpu=self.device.type == "cpu")
        check_whole(model, self.tasks, settings, self.processes.count)
        model.chunk(settings.chunk)
        first = self.processes.number == 0
        self.callbacks, self.name = list(callbacks) if first else [], name
        half = first and precision(settings.precision, settings.device) == "bf16"
        # One process decides for all; and a training that goes on does so as it began.
        self.precision = "bf16" if float(self.processes.add(torch.tensor(float(half)))) else "fp32"
        self.adapter = adapter if first else None
        self.unfinished: UnfinishedTraining | None = None
        if scratch:
            made_from = hash_training(model, self.tasks, settings, seed, self.terms)
            self.unfinished = UnfinishedTraining(scratch / "training.pt", made_from)
        seed_everything(seed_of(seed, "train", *([settings.start] if settings.start else [])))
        self.peft = add_adapter(model, settings) if settings.tune == "lora" else None
        choose_trainable(model, settings)
        model.to(self.device)
        self.tasks = [model.mined(task) for task in self.tasks]
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.trained:
            raise AllroundError("train the model", "the tasks share no weights, and heads are frozen",
                                "let heads be tuned, or use another base")  # fmt: skip
        model.zero_grad()

        self.feeds = self._feeds("train")
        kinds = tuple(self.tasks[feed.tasks[0]].definition.kind for feed in self.feeds)
        mixture = Mixture(tuple(f.name for f in self.feeds), tuple(len(f) for f in self.feeds), kinds)
        self.policy = make_policy(settings.sample, settings.sample_settings, mixture)
        if registry.find("sample", settings.sample).needs:
            choose_rows(self.policy, self.feeds, model, self.tasks)
        epochs = settings.epochs or enough_epochs(model, self.feeds)
        self.schedule = Schedule(self.feeds, kinds, self.policy, settings, epochs, seed)

        outline = outline_of(self.tasks, self.schedule.batches, self.schedule.batches_per_epoch)
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
        self.held = self._feeds("validation")
        self.validation = Validation(model, self.tasks, self.held, settings, self.precision)
        low_rank = model.lora_rate or 4 * model.learning_rate
        self.rate = settings.learning_rate or (model.learning_rate if self.peft is None else low_rank)
        self.optimiser = make_optimiser(model, self.tasks, self.gradients, settings, self.rate, rates)
        self.course = Course(examples={t.name: 0 for t in self.tasks}, skipped_of={t.name: 0 for t in self.tasks})
        self.bad_in_a_row = [0] * len(self.tasks)
        self.weighed: dict[str, list[float]] = {t.name: [0.0, 0.0] for t in self.tasks}
        self.lost: dict[str, list[float]] = {t.name: [0.0, 0.0] for t in self.tasks}
        self.started = time.perf_counter()
        for term in self.terms:
            term.before(model, self.tasks)
        self.schedule.skip_to_start()

    def _feeds(self, split: str) -> list[Feed]:
        settings = self.settings
        return make_feeds(
            self.tasks,
            self.model,
            batch_size=settings.batch_size,
            batch_sizes=settings.batch_sizes,
            seed=self.seed,
            split=split,
        )

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> Course:
        """Take all steps, from the start or from where unfinished training is, and leave the model as `keep` says."""
        seconds_before = self._resume()
        done = torch.tensor([self.schedule.done], dtype=torch.float64)
        if int(self.processes.add(done)) != self.schedule.done * self.processes.count:
            raise AllroundError("go on with the training", "its processes do not see the same unfinished training",
                                "put it into a folder that all machines share")  # fmt: skip
        self.started = time.perf_counter() - seconds_before
        if self.unfinished:
            self.unfinished.postpone()
        for callback in self.callbacks:
            callback.began(self.name, self.schedule.stop, self.schedule.done)
            for evaluation in self.course.evaluations:  # of a training that goes on
                callback.evaluated(self.name, evaluation)
        if not self.course.evaluations:
            self.evaluate()
        while not self.schedule.finished and not all(map(self.validation.is_stopped, range(len(self.tasks)))):
            epoch = self.schedule.epoch
            self.one_step()
            if self.schedule.epoch > epoch or self.schedule.finished:
                self.evaluate()
            if self.unfinished and self.unfinished.is_due():
                self._save(self.unfinished)
        self._finish()
        for callback in self.callbacks:
            callback.ended(self.name, self.course)
        return self.course

    def next_part(self, index: int) -> Part:
        """The next batch of a feed, with those of its tasks that are still trained."""
        feed = self.feeds[index]
        return Part(feed, self.schedule.next_rows(index), [t for t in feed.tasks if not self.validation.is_stopped(t)])

    def one_step(self) -> None:
        """Draw the batches of one step, and follow their gradient."""
        feeds = self.schedule.next_feeds()
        parts = [self.next_part(index) for index in feeds]
        parts = [part for part in parts if part.tasks]
        if parts:
            self.model.train()
            self.model.progressed(self.schedule.progress)
            for term in self.terms:
                term.progressed(self.schedule.progress)
            step, held = self.schedule.step, []
            if "validation" in self.entry.needs:
                held = [Part(f, f.batch(step % f.batches), list(f.tasks), "validation") for f in self.held]
            result = self.gradients.step(parts, step, self.schedule.progress, held)
            if result.seen is not None:
                self._apply_terms()
            result = self._clip(result)
            self._count(parts, result)
            if result.seen is not None:
                self._follow(result, self.rate * self.schedule.rate(len(feeds)))
                if "after" in self.entry.needs:
                    losses = self.gradients.losses(parts, result.seen.tasks.tolist())
                    if losses.isfinite().all():
                        self.balancers[0].stepped(result.seen, losses)
            self.course.steps += 1
        self.schedule.advance(len(feeds))

    def _apply_terms(self) -> None:
        """Add the gradients of the terms' penalties, and let the terms edit the sum."""
        for term in self.terms:
            penalty = term.penalty(self.model)
            if penalty is not None and penalty.requires_grad:
                penalty.backward()
        for term in self.terms:
            term.edit(self.model)

    def _clip(self, result: StepResult) -> StepResult:
        """Cut the gradient to the length `clip`. Where a sum of finite gradients is not finite, all tasks are left
        out."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings.clip)
        if result.seen is None or bool(norm.isfinite()):
            return result
        return StepResult(None, (), (*result.bad, *result.seen.tasks.tolist()))

    def _follow(self, result: StepResult, rate: float) -> None:
        """Let the optimiser take the step at a rate."""
        follow_rate(self.optimiser, rate, result.rate)
        self.optimiser.step()
        for term in self.terms:
            term.stepped(self.model)

    def _count(self, parts: Sequence[Part], result: StepResult) -> None:
        """Count rows, weights, and tasks that were left out."""
        for part in parts:
            for index in part.tasks:
                rows = int((part.feed.places[index][part.rows] >= 0).sum())
                self.course.examples[self.tasks[index].name] += rows
        seen = result.seen.tasks.tolist() if result.seen is not None else []
        for index, weight in zip(seen, result.weights, strict=True):
            self.bad_in_a_row[index] = 0
            kept = self.weighed[self.tasks[index].name]
            kept[:] = kept[0] + weight, kept[1] + 1
        losses: dict[str, float] = {}
        if result.seen is not None:
            losses = {self.tasks[i].name: x for i, x in zip(seen, result.seen.losses.tolist(), strict=True)}
        for task, loss in losses.items():
            self.lost[task][:] = self.lost[task][0] + loss, self.lost[task][1] + 1
        for callback in self.callbacks:
            callback.stepped(self.name, self.schedule.step, len(parts), losses)
        for index in result.bad:
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

    def evaluate(self) -> None:
        """Score the tasks on validation rows, record the scores, and tell balancers and the sampling policy."""
        changed = self._changed()
        for name, tensor in changed.items():
            if name not in self.trained and tensor.is_floating_point() and self.processes.count > 1:
                tensor.copy_(self.processes.add(tensor / self.processes.count))
        found = self.validation.evaluate(changed)
        for balancer in self.balancers:
            balancer.evaluated(torch.tensor(found.losses, dtype=torch.float64))
        of_feeds = [[found.relative[t] for t in feed.tasks] for feed in self.feeds]
        progress = self.schedule.progress if self.course.evaluations else 0.0
        self.policy.evaluated([sum(r) / len(r) for r in of_feeds], progress)
        names = [t.name for t in self.tasks]
        evaluation: Evaluation = {
            "step": self.schedule.step,
            "scores": dict(zip(names, found.scores, strict=True)),
            "losses": dict(zip(names, found.losses, strict=True)),
        }
        weights = {n: total / count for n, (total, count) in self.weighed.items() if count}
        if weights:
            evaluation["weights"] = weights
        if means := {n: total / count for n, (total, count) in self.lost.items() if count}:
            evaluation["training_losses"] = means
        self.weighed, self.lost = ({n: [0.0, 0.0] for n in names} for _ in range(2))
        self.course.evaluations.append(evaluation)
        if found.best:
            self.course.best_step = self.schedule.step
        for callback in self.callbacks:
            callback.evaluated(self.name, evaluation)

    def _finish(self) -> None:
        """Leave the model in its final state, and remove what was kept of unfinished training."""
        copy_into(self._changed(), self.validation.best)
        self.model.zero_grad()
        if self.settings.restore_heads:
            self.course.restored += self.validation.restore_heads()
        if self.peft is not None:
            if self.adapter is not None:
                self.peft.save_pretrained(str(self.adapter))
            self.peft.merge_and_unload()
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        self.model.progressed(1.0)
        self.model.chunk(0)
        self.model.eval()
        for term in self.terms:
            term.after(self.model)
        self.course.seconds = time.perf_counter() - self.started
        if self.unfinished and self.processes.number == 0:
            self.unfinished.remove()

    # -- going on after a kill ---------------------------------------------------------------------------------------

    def _save(self, unfinished: UnfinishedTraining) -> None:
        """Keep the training as it is now; one process does it for all."""
        unfinished.postpone()
        if self.processes.number:
            return
        self.course.seconds = time.perf_counter() - self.started
        unfinished.write(
            {
                "made_from": unfinished.made_from,
                "precision": self.precision,
                "course": self.course.state(),
                "schedule": self.schedule.state(),
                "validation": self.validation.state(),
                "bad_in_a_row": self.bad_in_a_row,
                "weighed": self.weighed,
                "lost": self.lost,
                "weights": {n: t.detach() for n, t in self._changed().items()},
                "optimiser": self.optimiser.state_dict(),
                "balancers": [b.by_task() for b in self.balancers],
                "terms": [term.state for term in self.terms],
                "policy": self.policy.state,
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            }
        )

    def _resume(self) -> float:
        """Take up unfinished training, if there is any; the seconds that it had taken."""
        state = self.unfinished.read() if self.unfinished else None
        if state is None:
            return 0.0
        copy_into(self._changed(), state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        for balancer, kept in zip(self.balancers, state["balancers"], strict=True):
            balancer.take(kept)
        for term, remembered in zip(self.terms, state["terms"], strict=True):
            term.state = remembered
        self.policy.state.update(state["policy"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.precision = self.validation.precision = state["precision"]
        self.schedule.resume(state["schedule"])
        self.validation.resume(state["validation"])
        self.bad_in_a_row, self.weighed, self.lost = state["bad_in_a_row"], state["weighed"], state["lost"]
        self.course.resume(state["course"])
        self.gradients.task_gradients.backward_passes = self.course.backward_passes
        return self.course.seconds
