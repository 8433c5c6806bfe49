"""The choice of the best single model, on validation rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.building.candidates import Candidate
from allround.building.judge import Judge
from allround.building.options import Constraints
from allround.building.stages.data import Data
from allround.building.workshop import Workshop
from allround.core.words import percent

#: Roles of systems that are not single models, and are named where they do better.
BEYOND = ("baseline", "trees", "ensemble", "groups")

#: The role of systems that give each row weights of its own.
ROUTED = "routed"

#: Validation scores by candidate and by task.
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Choice:
    """The best single model, and why it was chosen."""

    best: Candidate
    words: str


def make_judge(shop: Workshop, data: Data, reference: str, validation: Scores) -> Judge:
    """A judge that compares with the reference; says how the candidates so far compare. data: no held-out tasks."""
    judge = Judge(data.trained.metrics, validation[reference], data.unseen.metrics)
    means = {name: judge.mean(scores) for name, scores in validation.items() if name != reference}
    listed = ", ".join(f"{name} {percent(mean)}%" for name, mean in means.items())
    shop.say(f"mean retention on validation: {listed}")
    for name, mean in means.items():
        shop.progress.compare(name, mean)
    return judge


def choose(
    shop: Workshop,
    candidates: Sequence[Candidate],
    validation: Scores,
    judge: Judge,
    constraints: Constraints,
    tried: int,
) -> Choice:
    """Choose the best single model. tried: settings of merges that were compared on the way, for the words."""
    allowed = [c for c in candidates if not (constraints.one_set and c.role == ROUTED)]
    single = {c.name: c for c in allowed if c.single or not constraints.single}
    best, words = judge.choose(
        {name: validation[name] for name in single},
        {name: c.cost().parameters_stored for name, c in single.items()},
        constraints,
        tried,
    )
    mean = judge.mean(validation[best])
    better = {c.name: judge.mean(validation[c.name]) for c in candidates if c.name not in single and c.role in BEYOND}
    for name, value in better.items():
        if value > mean:
            words += (
                f" The system '{name}' retains {percent(value)}% there, and is not a single model (see --any-system)."
            )
    shop.say(words)
    return Choice(single[best], words)
