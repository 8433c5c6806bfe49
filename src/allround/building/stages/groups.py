"""A joint model for each group of tasks, where one joint model of all of them may lose too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from allround.building.candidates import ModelCandidate
from allround.building.judge import Judge
from allround.building.stages.estimates import estimate
from allround.building.stages.heads import Start
from allround.building.stages.plan import GROUPS
from allround.building.stages.tuning import Tuned, joint_piece
from allround.building.workshop import Work, Workshop
from allround.core.pieces import Piece
from allround.core.words import listed, percent, plural
from allround.models.cost import Cost
from allround.training.settings import Settings
from allround.transfer.blending import blend
from allround.transfer.deciding import cluster_tasks, likeness
from allround.transfer.findings import TOGETHER

Groups = tuple[tuple[str, ...], ...]


def grouped_candidates(
    shop: Workshop, start: Start, tuned: Tuned, settings: Settings, judge: Judge, counts: Sequence[int]
) -> list[ModelCandidate]:
    """The best system of a joint model for each group of tasks, with one encoder for each group.

    Tasks are put into groups by what all estimates together expect of each pair, those of specialists among them. The
    model of a task that is alone is its specialist. counts: the numbers of groups that are tried, of which validation
    chooses one; no candidate where there are none.
    """
    if not counts:
        return []
    tried = list(dict.fromkeys(_groups(shop, start, tuned, counts)))
    models = _train(shop, start, tuned, settings, tried)
    means = {each: judge.mean(_validation(models, each)) for each in tried}
    best = max(tried, key=lambda each: means[each])
    for each in tried:
        shop.say(f"{plural(len(each), 'group')}: mean retention {percent(means[each])}% on validation: {words(each)}")
    return [_candidate(start, models, best)]


def words(groups: Groups) -> str:
    """Groups in a line."""
    return "; ".join(listed(group) for group in groups)


def _groups(shop: Workshop, start: Start, tuned: Tuned, counts: Sequence[int]) -> list[Groups]:
    """For each number of groups, the clusters of the tasks."""
    base = estimate(shop, start.data, start.base, {})
    specialists = estimate(shop, start.data, start.base, tuned.specialists)
    alike = likeness(blend(TOGETHER, [*base.matrices, *specialists.matrices]))
    found = []
    for count in counts:
        labels = cluster_tasks(alike, count)
        of = {label: [t for t, one in zip(start.data.tasks, labels, strict=True) if one == label] for label in labels}
        found.append(tuple(tuple(group) for group in of.values()))
    return found


def _train(
    shop: Workshop, start: Start, tuned: Tuned, settings: Settings, tried: Sequence[Groups]
) -> dict[tuple[str, ...], Piece]:
    """The joint model of each group."""
    models, work = dict[tuple[str, ...], Piece](), list[Work]()
    for group in dict.fromkeys(group for groups in tried for group in groups):
        if len(group) == 1:
            models[group] = tuned.specialists[group[0]]
            continue
        part = replace(start, data=start.data.part(group), heads={name: start.heads[name] for name in group})
        piece, job = joint_piece(shop, part, settings, shop.seed, "group")
        models[group] = piece
        work.append((piece, job))
    tally = shop.do("joint models of groups", work)
    shop.say(f"{plural(len(work), 'joint model')} of groups tuned", tally)
    return models


def _validation(models: dict[tuple[str, ...], Piece], groups: Groups) -> dict[str, float]:
    """The validation score of each task, in the model of its group."""
    found: dict[str, float] = {}
    for group in groups:
        scores = models[group].facts["validation"]
        found |= {task: float(scores[task]) for task in group}
    return found


def _candidate(start: Start, models: dict[tuple[str, ...], Piece], groups: Groups) -> ModelCandidate:
    pieces = {task: models[group] for group in groups for task in group}
    places = {task: pieces[task].folder for task in start.data.tasks}
    used = [models[group] for group in groups]
    return ModelCandidate(
        GROUPS,
        GROUPS,
        f"a joint model for each of {plural(len(groups), 'group')}: {words(groups)}",
        places,
        places,
        {task: pieces[task].key for task in places},
        start.base.size,
        Cost(
            training_seconds=sum(piece.facts["seconds"] for piece in used) + start.seconds,
            training_examples=sum(sum(piece.facts["examples"].values()) for piece in used),
        ),
        {"groups": len(groups)},
    )
