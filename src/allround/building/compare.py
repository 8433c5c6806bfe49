"""Joint trainings compared fairly: with tuned weights and specialists, each at its best learning rate, over seeds."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allround.building import jobs
from allround.building.joint import (
    TUNED,
    Joint,
    joint_settings,
    rate_factors,
    read_joint,
    specialist_settings,
    sweep_weights,
)
from allround.building.options import Options
from allround.building.results import about_machine, task_facts
from allround.building.run import Run, run_folder
from allround.building.systems import Judge, Parts
from allround.core.errors import AllroundError
from allround.core.jobs import Job, quiet_libraries
from allround.core.outputs import check_texts, write_texts
from allround.core.pieces import Piece
from allround.core.progress import Progress
from allround.core.seeds import seed_of
from allround.evaluation.predictions import Predictions
from allround.evaluation.training import (
    EQUAL,
    FILES,
    SPECIALISTS,
    Reference,
    Training,
    TrainingComparison,
    TrainingCost,
    Tried,
    measure,
)
from allround.models.device import pick_device
from allround.tasks.metric import better
from allround.training.settings import Settings
from allround.training.trainer import check_settings

if TYPE_CHECKING:
    from torch import nn

    from allround.tasks.suite import Suite

#: What is compared unless the user says otherwise: fixed weights, then one balancer of each sort.
METHODS = (EQUAL, TUNED, "uw", "famo", "pcgrad", "cagrad")


def compare_training(
    suite: Suite | str | Path,
    *,
    out: Path | str,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    trials: int = 3,
    sweep: int = 6,
    seed: int = 0,
    base: str | Path | nn.Module | None = None,
    settings: Settings | None = None,
    encoder: Mapping[str, Any] | None = None,
    data_dir: Path | str | None = None,
    only: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    workers: int | None = None,
    resamples: int = 1000,
    progress: Progress | None = None,
    force: bool = False,
) -> TrainingComparison:
    """Compare ways of training one model on all tasks, with each other and with specialists, and write the result.

    methods: balancers as `NAME` or `NAME:key=value;key=value` (the balancer's parameters, and flat, sample, mix and
    raw_scale of the settings), and `tuned`: the best of `sweep` fixed weights on validation. `equal` is always among
    them. seeds: how many, from `seed` on. trials: learning rates tried for every method, and for each specialist.
    settings: what all have in common; left out, every step holds a batch of every task.

    Learning rates and weights are chosen on validation with the first seed; test is predicted once for each finished
    model. Everything is kept in `out`: run again with the same arguments after a kill, it takes up what is finished.
    What earlier comparisons wrote there is replaced, and what others put there is not, unless `force` says so.
    """
    from allround.tasks.suite import as_suite

    quiet_libraries()
    out = Path(out)
    settings = settings or Settings(mix="all")
    for name, value, low in (("seeds", seeds, 1), ("trials", trials, 1), ("sweep", sweep, 0)):
        if value < low:
            raise AllroundError(f"compare trainings with {name}={value}", "that is too few", f"give at least {low}")
    joints = _joints(methods, sweep)
    suite = as_suite(suite, data_dir=data_dir, only=only, limit=limit)
    if len(suite.tasks) < 2:
        raise AllroundError(
            f"compare joint trainings on '{suite.name}'",
            f"there is one task only: {', '.join(suite.tasks)}",
            "give two tasks or more (--only names those that are used)",
        )
    base = base if base is not None else suite.base
    if base is None:
        raise AllroundError(
            f"compare joint trainings on '{suite.name}'",
            "no base was given, and the suite names none",
            "give --base: a model folder, a Hub id, all-MiniLM-L6-v2, small_image or small_table",
        )
    for joint in joints:
        check_settings(joint_settings(joint, settings), list(suite.tasks.values()))
    pick_device(settings.device)
    options = Options(settings=settings, seed=seed, workers=workers, resamples=resamples)
    with run_folder(out, "compare-training", force=force):
        check_texts(out, FILES, "compare-training", force=force)
        progress = progress or Progress(out / "log.txt")
        run = _Comparing(suite, base, options, out, dict(encoder or {}), progress)
        made = run.go(joints, tuple(range(seed, seed + seeds)), trials, sweep)
        write_texts(out, made.files(), "compare-training", force=force)
    return made


def _joints(methods: Sequence[str], sweep: int) -> list[Joint]:
    """The methods, each once, equal weights first."""
    found = [read_joint(text) for text in methods]
    if EQUAL not in [joint.name for joint in found]:
        found.insert(0, Joint(EQUAL, EQUAL))
    names = [joint.name for joint in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AllroundError("compare joint trainings", f"'{twice[0]}' is named twice", "name each method once")
    if TUNED in names and sweep < 2:
        raise AllroundError(
            f"compare '{TUNED}' weights with a sweep of {sweep}",
            "there is nothing to choose from",
            f"give --sweep 2 or more, or leave {TUNED} out of --methods",
        )
    return found


class _Comparing(Run):
    """A run whose work, from the heads on, is that of a comparison."""

    def go(self, joints: Sequence[Joint], seeds: tuple[int, ...], trials: int, sweep: int) -> TrainingComparison:
        self.joints = {joint.name: joint for joint in joints}
        self.seeds, self.factors = seeds, rate_factors(trials)
        self.weights = sweep_weights(list(self.tasks), sweep, seed_of(seeds[0], "sweep"))
        self._announce(f"{len(joints)} methods, {trials} learning rates, {len(seeds)} seeds")
        with self._runner() as self.runner:
            self._begin()
            self._fit_heads()
            self._try_rates()
            self._try_weights()
            self._train_all()
            return self._measure()

    # -- pieces of work ------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """The learning rate that the others are multiples of."""
        own: float = self.base_piece.facts["learning_rate"] * (4 if self.settings.tune == "lora" else 1)
        return self.settings.learning_rate or own

    def _joint(self, joint: Joint, factor: float, seed: int) -> tuple[Piece, Job]:
        settings = joint_settings(joint, self.settings, rate=self.rate * factor)
        return self.joint_piece(settings, seed, f"compared-{joint.balance}")

    def _specialist(self, task: str, factor: float, seed: int) -> tuple[Piece, Job]:
        settings = specialist_settings(self.settings, self.tasks[task]).with_(learning_rate=self.rate * factor)
        return self.specialist_piece(task, settings, seed, "compared-specialist")

    def _weighted(self, weights: Mapping[str, float], seed: int) -> tuple[Piece, Job]:
        """Fixed weights at the rate of equal ones; equal weights are that training itself."""
        joint = self.joints[EQUAL]
        if len(set(weights.values())) > 1:
            joint = Joint(TUNED, "fixed", {"weights": dict(weights)})
        return self._joint(joint, self.chosen[EQUAL], seed)

    def _trained(self, name: str, seed: int) -> tuple[Piece, Job]:
        """A method with its chosen settings."""
        if name == TUNED:
            return self._weighted(self.tuned, seed)
        return self._joint(self.joints[name], self.chosen[name], seed)

    # -- choices on validation -----------------------------------------------------------------------------------

    def _try_rates(self) -> None:
        """Every learning rate with every method and every specialist; the best of each is chosen."""
        first = self.seeds[0]
        listed = [joint for joint in self.joints.values() if joint.name != TUNED]
        joint = {(one.name, f): self._joint(one, f, first) for one in listed for f in self.factors}
        alone = {(task, f): self._specialist(task, f, first) for task in self.tasks for f in self.factors}
        # The longest pieces first, so that the others fill the time beside them.
        self._do("learning rates", [*joint.values(), *alone.values()])
        self.scores = {task: {f: alone[task, f][0].facts["validation"][task] for f in self.factors}
                       for task in self.tasks}  # fmt: skip
        self.own: dict[str, float] = {}
        for task, tried in self.scores.items():
            sign = 1 if better(self.tasks[task].definition.metric) == "higher" else -1
            self.own[task] = max(tried, key=lambda f: sign * tried[f])
        self.judge_of_first = self._judge({task: self.scores[task][self.own[task]] for task in self.tasks})
        self.chosen: dict[str, float] = {}
        self.tried: dict[str, list[Tried]] = {}
        for one in listed:
            facts = {f: joint[one.name, f][0].facts for f in self.factors}
            means = {f: self.judge_of_first.mean(facts[f]["validation"]) for f in self.factors}
            self.chosen[one.name] = max(means, key=lambda f: means[f])
            self.tried[one.name] = [self._tried(facts[f], f, f == self.chosen[one.name]) for f in self.factors]
            self.progress.say(f"{one.name}: learning rate {self.rate * self.chosen[one.name]:.3g}, mean retention "
                              f"{100 * means[self.chosen[one.name]]:.1f}% on validation")  # fmt: skip
        kept = {self._joint(one, self.chosen[one.name], first)[0].key for one in listed}
        kept |= {self._specialist(task, self.own[task], first)[0].key for task in self.tasks}
        self._drop_weights(p for p, _ in [*joint.values(), *alone.values()] if p.key not in kept)

    def _try_weights(self) -> None:
        """The sweep of fixed weights, at the rate that is best for equal ones; and the other seeds beside it."""
        first = self.seeds[0]
        swept = [self._weighted(weights, first) for weights in self.weights]
        rest = [] if TUNED in self.joints else self._finals()
        self._do("fixed weights", [*swept, *rest])
        facts = [piece.facts for piece, _ in swept]
        means = [self.judge_of_first.mean(f["validation"]) for f in facts]
        best = means.index(max(means)) if means else 0
        chosen = TUNED in self.joints
        self.sweep = [self._tried(f, self.chosen[EQUAL], chosen and i == best, self.weights[i])
                      for i, f in enumerate(facts)]  # fmt: skip
        if chosen:
            self.tuned = self.weights[best]
            self.tried[TUNED] = self.sweep
            words = ", ".join(f"{task} {weight:.2f}" for task, weight in self.tuned.items())
            self.progress.say(f"{TUNED}: {words}, mean retention {100 * means[best]:.1f}% on validation")
        kept = {self._trained(name, first)[0].key for name in self.joints}
        self._drop_weights(piece for piece, _ in swept if piece.key not in kept)

    def _judge(self, reference: Mapping[str, float]) -> Judge:
        return Judge({n: t.definition.metric for n, t in self.tasks.items()}, dict(reference))

    def _tried(
        self, facts: Mapping[str, Any], factor: float, chosen: bool, weights: Mapping[str, float] | None = None
    ) -> Tried:
        scores = facts["validation"]
        judge = self.judge_of_first
        return Tried(self.rate * factor, judge.mean(scores), judge.retentions(scores), chosen, facts["seconds"],
                     dict(weights or {}))  # fmt: skip

    # -- the finished systems ------------------------------------------------------------------------------------

    def _systems(self) -> dict[tuple[str, int], Parts]:
        """The specialists and every method, with every seed; two names of one training are one system."""
        found: dict[tuple[str, int], Parts] = {}
        for seed in self.seeds:
            folders = {n: self._specialist(n, self.own[n], seed)[0] for n in self.tasks}
            places = {n: piece.folder for n, piece in folders.items()}
            found[SPECIALISTS, seed] = Parts(f"{SPECIALISTS}-{seed}", "specialists", "a model tuned for each task",
                                             places, places, {n: p.key for n, p in folders.items()})  # fmt: skip
            made: dict[str, Parts] = {}
            for name in self.joints:
                piece, _ = self._trained(name, seed)
                plain = re.sub(r"[^A-Za-z0-9_.]+", "_", name)
                if piece.key not in made:
                    made[piece.key] = Parts.of_one(f"{plain}-{seed}", "joint", name, piece, self.tasks)
                found[name, seed] = made[piece.key]
        return found

    def _finals(self) -> list[tuple[Piece, Job]]:
        """All trainings with their chosen settings, each once. Those whose answers on test are there need not be made
        again, though their weights are gone; others whose weights are gone are made anew."""
        work: dict[str, tuple[Piece, Job]] = {}
        systems = self._systems()
        for seed in self.seeds:
            for name in self.joints:
                self._want(work, self._trained(name, seed), systems[name, seed], list(self.tasks))
            for task in self.tasks:
                self._want(work, self._specialist(task, self.own[task], seed), systems[SPECIALISTS, seed], [task])
        return list(work.values())

    def _want(
        self, work: dict[str, tuple[Piece, Job]], made: tuple[Piece, Job], system: Parts, tasks: Sequence[str]
    ) -> None:
        piece, _ = made
        answers = system.predictions(self.pieces, self.tasks, "test")
        if piece.done and not _has_weights(piece) and not all(answers[task].done for task in tasks):
            piece.remove()
        work[piece.key] = made

    def _train_all(self) -> None:
        self._do("all seeds", self._finals())
        found = self._systems()
        self.systems = list({id(system): system for system in found.values()}.values())
        self._predict("test")
        first = {self._trained(name, self.seeds[0])[0].key for name in self.joints}
        self._drop_weights(piece for piece, _ in self._finals() if piece.key not in first)

    def _drop_weights(self, pieces: Any) -> None:
        """Keep of a training what it has to say; its weights would fill the disk."""
        for piece in pieces:
            if _has_weights(piece):
                facts = piece.facts
                with piece.make() as (_, kept):
                    kept.update(facts)

    # -- the result ----------------------------------------------------------------------------------------------

    def _measure(self) -> TrainingComparison:
        definitions = {n: t.definition for n, t in self.tasks.items()}
        predictions: dict[tuple[str, int, str], Predictions] = {}
        for (name, seed), system in self._systems().items():
            for task, piece in system.predictions(self.pieces, self.tasks, "test").items():
                predictions[name, seed, task] = jobs.loaded_predictions(piece)
        found = measure([SPECIALISTS, *self.joints], definitions, self.seeds, predictions, seed=self.seeds[0],
                        resamples=self.options.resamples)  # fmt: skip
        alone = {(n, s): self._specialist(n, self.own[n], s)[0].facts for n in self.tasks for s in self.seeds}
        judges = {s: self._judge({n: alone[n, s]["validation"][n] for n in self.tasks}) for s in self.seeds}
        methods = []
        for name, joint in self.joints.items():
            facts = [self._trained(name, seed)[0].facts for seed in self.seeds]
            tuned = name == TUNED
            methods.append(
                Training(
                    name,
                    {"weights": self.tuned} if tuned else joint.differs,
                    self.rate * self.chosen[EQUAL if tuned else name],
                    self.tried[name],
                    tuple(judges[s].mean(f["validation"]) for s, f in zip(self.seeds, facts, strict=True)),
                    self._cost([[f] for f in facts], len(self.tried[name])),
                    found[name],
                )
            )
        reference = Reference(
            {n: self.rate * self.own[n] for n in self.tasks},
            {n: {f"{self.rate * f:.3g}": score for f, score in tried.items()} for n, tried in self.scores.items()},
            found[SPECIALISTS].scores,
            self._cost([[alone[n, s] for n in self.tasks] for s in self.seeds], len(self.factors) * len(self.tasks)),
        )
        return TrainingComparison(
            definitions=definitions,
            methods=methods,
            reference=reference,
            sweep=self.sweep,
            seeds=self.seeds,
            rows={n: len(t.splits["test"]) for n, t in self.tasks.items()},
            seed=self.seeds[0],
            resamples=self.options.resamples,
            tasks=[task_facts(t) for t in self.tasks.values()],
            settings=self._common(),
            notes=self._notes(methods, reference),
            provenance={
                **{k: v for k, v in self._provenance().items() if k != "settings"},
                **about_machine(),
                "total_seconds": time.perf_counter() - self.started,
            },
        )

    def _cost(self, runs: Sequence[Sequence[Mapping[str, Any]]], choices: int) -> TrainingCost:
        """What a system takes. runs: for each seed, the facts of its trainings."""
        count, every = len(runs), [facts for run in runs for facts in run]
        steps = sum(facts["steps"] for facts in every)
        peaks = [facts["peak_memory"] for facts in every]
        examples: dict[str, float] = {}
        for facts in every:
            for task, rows in facts["examples"].items():
                examples[task] = examples.get(task, 0.0) + rows / count
        return TrainingCost(
            seconds=sum(facts["seconds"] for facts in every) / count,
            steps=steps / count,
            backward_passes=sum(facts["backward_passes"] for facts in every) / max(1, steps),
            examples=examples,
            peak_memory=None if None in peaks else max(peaks),
            skipped=sum(facts["skipped"] for facts in every),
            choices=choices,
            unmoved=sum(facts["best_step"] == 0 for facts in every),
        )

    def _common(self) -> dict[str, Any]:
        """What all trainings have in common, for people: the main settings, and those that are not the default."""
        settings, plain = self.settings.to_json(), Settings().to_json()
        shown = {name: settings[name] for name in ("batch_size", "mix", "sample", "tune", "heads", "precision")}
        shown["epochs"] = settings["epochs"] or self.base_piece.facts["epochs"]
        shown["learning rates around"] = f"{self.rate:.3g}"
        own = ("balance", "balance_settings", "learning_rate", "device", "epochs")
        more = {n: v for n, v in settings.items() if v != plain[n] and n not in own}
        return {name.replace("_", " "): value for name, value in {**shown, **more}.items()}

    def _notes(self, methods: Sequence[Training], reference: Reference) -> list[str]:
        """What a reader has to know: unequal numbers of examples, tasks left out of steps, warnings of the data."""
        found = [f"{name}: {note}" for name, task in self.tasks.items() for note in task.notes]
        for one in methods:
            unlike = [f"{task} {rows:g} instead of {reference.cost.examples[task]:g}"
                      for task, rows in one.cost.examples.items() if rows != reference.cost.examples[task]]  # fmt: skip
            if unlike:
                found.append(f"{one.name} saw other numbers of rows than the {SPECIALISTS}: {', '.join(unlike)}.")
            if one.cost.skipped:
                found.append(f"{one.name} left a task out of a step {one.cost.skipped} times, because its loss or "
                             "gradient was not a finite number.")  # fmt: skip
        if self.workers > 1:
            found.append(f"Times were taken while up to {self.workers} trainings shared the machine.")
        return found


def _has_weights(piece: Piece) -> bool:
    return (piece.folder / "encoder").is_dir()
