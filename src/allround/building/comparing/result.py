"""The result of a comparison: what each method gives on test, what it takes, and what a reader has to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allround.building.candidates import PerTaskCandidate
from allround.building.comparing.choices import Chosen, Sweep, judge_by
from allround.building.jobs.tune import TrainingFacts, training_facts
from allround.building.joint import TUNED
from allround.building.machine import about_machine
from allround.building.words import task_facts
from allround.core.words import plural
from allround.evaluation.predictions import Predictions
from allround.evaluation.training import (
    EQUAL,
    SPECIALISTS,
    Baseline,
    Reference,
    Training,
    TrainingComparison,
    TrainingCost,
    measure,
)
from allround.models.share.further import stored_in
from allround.training.settings import Settings


def measured(
    chosen: Chosen,
    sweep: Sweep,
    predictions: Mapping[tuple[str, int, str], Predictions],
    beside: Sequence[PerTaskCandidate] = (),
    *,
    seeds: tuple[int, ...],
    resamples: int,
    provenance: Mapping[str, object],
) -> TrainingComparison:
    """Measure all methods on the test rows. predictions: by system, seed and task. beside: what is no joint training.
    provenance: of the run."""
    trainings, rates = chosen.trainings, chosen.rates
    data, tasks, rate = trainings.start.data, trainings.tasks, chosen.trainings.rate
    tried = {**rates.tried, **({TUNED: sweep.tried} if chosen.tuned is not None else {})}
    named = [one.name for one in beside]
    found = measure([SPECIALISTS, *named, *trainings.joints], data.definitions, seeds, predictions, seed=seeds[0],
                    resamples=resamples)  # fmt: skip
    alone = {(n, s): training_facts(chosen.specialist(n, s)[0]) for n in tasks for s in seeds}
    judges = {s: judge_by(trainings, {n: alone[n, s]["validation"][n] for n in tasks}) for s in seeds}
    methods = []
    for name, joint in trainings.joints.items():
        facts = [training_facts(chosen.joint(name, seed)[0]) for seed in seeds]
        tuned = name == TUNED
        methods.append(
            Training(
                name,
                {"weights": chosen.tuned} if tuned else joint.differs,
                trainings.joint_rate(joint) * rates.chosen[EQUAL if tuned else name],
                tried[name],
                tuple(judges[s].mean(f["validation"]) for s, f in zip(seeds, facts, strict=True)),
                _cost([[f] for f in facts], len(tried[name])),
                found[name],
            )
        )
    choices = sum(len(scores) for scores in rates.scores.values())
    reference = Reference(
        {n: rate * rates.own[n] for n in tasks},
        {n: {f"{rate * f:.3g}": score for f, score in scores.items()} for n, scores in rates.scores.items()},
        found[SPECIALISTS].scores,
        _cost([[alone[n, s] for n in tasks] for s in seeds], choices),
    )
    return TrainingComparison(
        definitions=data.definitions,
        methods=methods,
        reference=reference,
        sweep=sweep.tried,
        seeds=seeds,
        rows={n: len(t.splits["test"]) for n, t in data.tasks.items()},
        seed=seeds[0],
        resamples=resamples,
        tasks=[task_facts(t) for t in data.tasks.values()],
        settings=_common(chosen),
        notes=_notes(chosen, methods, reference),
        provenance={
            **{k: v for k, v in provenance.items() if k != "settings"},
            **about_machine(),
            "total_seconds": trainings.shop.elapsed,
        },
        baselines=[Baseline(one.name, one.title, _fitting(one), found[one.name]) for one in beside],
    )


def _fitting(system: PerTaskCandidate) -> TrainingCost:
    """What fitting a system takes that has a part for each task."""
    facts = {name: piece.facts for name, piece in system.pieces.items()}
    stored = [stored_in(piece.folder) for piece in system.pieces.values()]
    return TrainingCost(
        seconds=sum(one["seconds"] for one in facts.values()),
        examples={name: float(one["examples"]) for name, one in facts.items()},
        choices=sum(len(one["tried"]) for one in facts.values()),
        further=round(sum(stored) / len(stored)),
    )


def _cost(runs: Sequence[Sequence[TrainingFacts]], choices: int) -> TrainingCost:
    """What a system takes. runs: for each seed, the facts of its trainings."""
    count, every = len(runs), [facts for run in runs for facts in run]
    steps = sum(facts["steps"] for facts in every)
    peaks = [peak for facts in every if (peak := facts["peak_memory"]) is not None]
    stored = [size for facts in every if (size := facts.get("further")) is not None]
    examples: dict[str, float] = {}
    for facts in every:
        for task, rows in facts["examples"].items():
            examples[task] = examples.get(task, 0.0) + rows / count
    return TrainingCost(
        seconds=sum(facts["seconds"] for facts in every) / count,
        steps=steps / count,
        backward_passes=sum(facts["backward_passes"] for facts in every) / max(1, steps),
        examples=examples,
        peak_memory=max(peaks) if len(peaks) == len(every) else None,
        skipped=sum(facts["skipped"] for facts in every),
        choices=choices,
        unmoved=sum(facts["best_step"] == 0 for facts in every),
        further=round(sum(stored) / len(stored)) if len(stored) == len(every) else None,
    )


def _common(chosen: Chosen) -> dict[str, object]:
    """What all trainings have in common, for people: the main settings, and those that are not the default."""
    trainings = chosen.trainings
    settings, plain = trainings.settings.to_json(), Settings().to_json()
    shown = {name: settings[name] for name in ("batch_size", "mix", "sample", "tune", "heads", "precision")}
    shown["epochs"] = settings["epochs"] or trainings.start.base.epochs
    shown["learning rates around"] = f"{trainings.rate:.3g}"
    own = ("balance", "balance_settings", "learning_rate", "device", "epochs")
    more = {n: v for n, v in settings.items() if v != plain[n] and n not in own}
    return {name.replace("_", " "): value for name, value in {**shown, **more}.items()}


def _notes(chosen: Chosen, methods: Sequence[Training], reference: Reference) -> list[str]:
    """What a reader has to know: unequal numbers of examples, tasks left out of steps, warnings of the data."""
    trainings = chosen.trainings
    found = [f"{name}: {note}" for name, task in trainings.start.data.tasks.items() for note in task.notes]
    for one in methods:
        unlike = [f"{task} {rows:g} instead of {reference.cost.examples[task]:g}"
                  for task, rows in one.cost.examples.items() if rows != reference.cost.examples[task]]  # fmt: skip
        if unlike:
            found.append(f"{one.name} saw other numbers of rows than the {SPECIALISTS}: {', '.join(unlike)}.")
        if one.cost.skipped:
            found.append(f"{one.name} left a task out of a step {plural(one.cost.skipped, 'time')}, because its loss "
                         "or gradient was not a finite number.")  # fmt: skip
    if trainings.shop.workers > 1:
        found.append(f"Times were taken while up to {trainings.shop.workers} trainings shared the machine.")
    return found
