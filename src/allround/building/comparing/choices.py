"""The choices of a comparison, on validation with the first seed: learning rates, and fixed weights of the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.building.comparing.trainings import Trainings, drop_weights
from allround.building.jobs.tune import TrainingFacts, training_facts
from allround.building.joint import TUNED
from allround.building.judge import Judge
from allround.building.workshop import Work
from allround.core.jobs import Job
from allround.core.pieces import Piece
from allround.core.words import percent, plural
from allround.evaluation.training import EQUAL, Tried
from allround.tasks.metric import better


@dataclass(frozen=True)
class Rates:
    """The learning rates that were tried and chosen, as factors on the common one.

    scores: of each task's specialist on validation, by factor. own: the factor of each specialist. chosen: that of
    each method. tried: each method's settings. judge: compares with the specialists at their best rates.
    """

    scores: Mapping[str, Mapping[float, float]]
    own: Mapping[str, float]
    chosen: Mapping[str, float]
    tried: Mapping[str, list[Tried]]
    judge: Judge


@dataclass(frozen=True)
class Sweep:
    """Fixed weights that were tried, and those that were chosen where tuned weights are compared."""

    tried: list[Tried]
    tuned: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Chosen:
    """The trainings of a comparison with the settings that were chosen. tuned: weights of the tasks."""

    trainings: Trainings
    rates: Rates
    tuned: Mapping[str, float] | None = None

    def joint(self, name: str, seed: int) -> tuple[Piece, Job]:
        """A method's training."""
        if name == TUNED:
            assert self.tuned is not None, "tuned weights are chosen before they are trained with"
            return self.trainings.weighted(self.tuned, self.rates.chosen[EQUAL], seed)
        return self.trainings.joint(self.trainings.joints[name], self.rates.chosen[name], seed)

    def specialist(self, task: str, seed: int) -> tuple[Piece, Job]:
        """The training of a task's specialist."""
        return self.trainings.specialist(task, self.rates.own[task], seed)


def judge_by(trainings: Trainings, reference: Mapping[str, float]) -> Judge:
    """A judge that compares with these scores of the specialists."""
    return Judge(trainings.start.data.metrics, dict(reference))


def try_rates(trainings: Trainings, factors: Sequence[float], seed: int) -> Rates:
    """Train every method and every specialist at every learning rate, and choose the best rate of each."""
    shop, tasks = trainings.shop, trainings.start.data.tasks
    listed = [joint for joint in trainings.joints.values() if joint.name != TUNED]
    joint = {(one.name, f): trainings.joint(one, f, seed) for one in listed for f in factors}
    alone = {(task, f): trainings.specialist(task, f, seed) for task in tasks for f in factors}
    # The longest pieces first, so that the others fill the time beside them.
    tally = shop.do("learning rates", [*joint.values(), *alone.values()])
    scores = {task: {f: training_facts(alone[task, f][0])["validation"][task] for f in factors} for task in tasks}
    own: dict[str, float] = {}
    for task, found in scores.items():
        sign = 1 if better(tasks[task].definition.metric) == "higher" else -1
        own[task] = _best({f: sign * score for f, score in found.items()})
    judge = judge_by(trainings, {task: scores[task][own[task]] for task in tasks})
    shop.say(f"{plural(len(factors), 'learning rate')} tried with {plural(len(listed), 'method')} and "
             f"{plural(len(tasks), 'specialist')}", tally)  # fmt: skip
    chosen: dict[str, float] = {}
    tried: dict[str, list[Tried]] = {}
    for one in listed:
        facts = {f: training_facts(joint[one.name, f][0]) for f in factors}
        means = {f: judge.mean(facts[f]["validation"]) for f in factors}
        best = chosen[one.name] = _best(means)
        rate = trainings.joint_rate(one)
        tried[one.name] = [_tried(judge, facts[f], rate * f, f == best) for f in factors]
        shop.say(f"{one.name}: learning rate {rate * best:.3g}, mean retention {percent(means[best])}% on validation")
    kept = {trainings.joint(one, chosen[one.name], seed)[0].key for one in listed}
    kept |= {trainings.specialist(task, own[task], seed)[0].key for task in tasks}
    drop_weights(p for p, _ in [*joint.values(), *alone.values()] if p.key not in kept)
    return Rates(scores, own, chosen, tried, judge)


def try_weights(
    trainings: Trainings, rates: Rates, weights: Sequence[Mapping[str, float]], seed: int, beside: Sequence[Work]
) -> Sweep:
    """Train with each of these fixed weights at the rate that is best for equal ones, and choose the best.

    beside: other work that is ready, done at the same time.
    """
    shop = trainings.shop
    swept = [trainings.weighted(one, rates.chosen[EQUAL], seed) for one in weights]
    tally = shop.do("fixed weights", [*swept, *beside])
    facts = [training_facts(piece) for piece, _ in swept]
    means = [rates.judge.mean(f["validation"]) for f in facts]
    best = means.index(max(means)) if means else 0
    chosen = TUNED in trainings.joints
    tried = [
        _tried(rates.judge, f, trainings.rate * rates.chosen[EQUAL], chosen and i == best, weights[i])
        for i, f in enumerate(facts)
    ]
    if swept:
        shop.say(f"{plural(len(swept), 'choice')} of fixed weights tried", tally)
    tuned = weights[best] if chosen else None
    if tuned is not None:
        words = ", ".join(f"{task} {weight:.2f}" for task, weight in tuned.items())
        shop.say(f"{TUNED}: {words}, mean retention {percent(means[best])}% on validation")
    finished = Chosen(trainings, rates, tuned)
    kept = {finished.joint(name, seed)[0].key for name in trainings.joints}
    drop_weights(piece for piece, _ in swept if piece.key not in kept)
    return Sweep(tried, tuned)


def _best(scores: Mapping[float, float]) -> float:
    """The factor with the highest score; of equals the first."""
    return max(scores, key=lambda factor: scores[factor])


def _tried(
    judge: Judge,
    facts: TrainingFacts,
    rate: float,
    chosen: bool,
    weights: Mapping[str, float] | None = None,
) -> Tried:
    scores = facts["validation"]
    return Tried(rate, judge.mean(scores), judge.retentions(scores), chosen, facts["seconds"],
                 dict(weights or {}))  # fmt: skip
