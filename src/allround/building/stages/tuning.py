"""Tuned models: a specialist for each task, and joint models for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from allround.building.candidates import ModelCandidate
from allround.building.given import GivenSpecialist
from allround.building.jobs import tune as jobs
from allround.building.jobs.given import take_specialist
from allround.building.joint import joint_settings
from allround.building.rising import rising_specialists
from allround.building.stages.heads import Start, of_sort
from allround.building.stages.plan import Scope
from allround.building.workshop import Work, Workshop, keys, seconds
from allround.core.files import hash_folder
from allround.core.jobs import Job, call
from allround.core.pieces import Piece
from allround.core.schema import checked
from allround.core.seeds import seed_of
from allround.core.words import listed, plural
from allround.evaluation.sharing import SharingFacts
from allround.models.cost import Cost
from allround.training.preconditions import check_settings
from allround.training.settings import Settings

#: What the specialists together are called.
SPECIALISTS = "specialists"


@dataclass(frozen=True)
class JointModel:
    """A joint model: its name among the systems, what it is in words, and its piece."""

    name: str
    title: str
    piece: Piece


@dataclass(frozen=True)
class Tuned:
    """What tuning gives: the piece of each task's specialist, and the joint models.

    rising: which specialists were still getting better when their training ended, in words.
    """

    specialists: Mapping[str, Piece]
    joints: tuple[JointModel, ...]
    rising: tuple[str, ...] = ()


def joint_piece(shop: Workshop, start: Start, settings: Settings, seed: int, name: str = "joint") -> tuple[Piece, Job]:
    """A model tuned on all tasks with these settings, from the base and its heads, and the job that makes it."""
    piece = shop.pieces.piece(
        name,
        base=start.base.piece.key,
        heads=keys(start.heads),
        tasks=start.data.content,
        settings=settings.to_json(),
        seed=seed,
    )
    job = call(jobs.tune, piece=piece, base=start.base.encoder, heads=start.head_folders,
               tasks=list(start.data.folders.values()), settings=settings.to_json(),
               seed=seed_of(seed, "joint"))  # fmt: skip
    return piece, job


def specialist_piece(
    shop: Workshop, start: Start, task: str, settings: Settings, seed: int, name: str = "specialist"
) -> tuple[Piece, Job]:
    """A model tuned on one task with these settings, from the base and the task's head, and the job that makes it."""
    head = start.heads[task]
    piece = shop.pieces.piece(
        f"{name}-{task}",
        base=start.base.piece.key,
        task=start.data.tasks[task].content,
        head=head.key,
        settings=settings.to_json(),
        seed=seed,
    )
    job = call(jobs.tune, piece=piece, base=start.base.encoder, heads={task: str(head.folder)},
               tasks=[start.data.folders[task]], settings=settings.to_json(),
               seed=seed_of(seed, "tune", task))  # fmt: skip
    return piece, job


def tune(shop: Workshop, start: Start, scope: Scope, given: Mapping[str, GivenSpecialist]) -> Tuned:
    """Tune the joint models, and a specialist for each task.

    given: specialists that the user has already, by task.
    """
    work: list[Work] = []
    joints: list[JointModel] = []
    # The longest pieces first, so that the others fill the time beside them.
    if scope.joint:
        piece, job = joint_piece(shop, start, scope.settings, shop.seed)
        joints.append(JointModel("joint", "one model trained on all tasks", piece))
        work.append((piece, job))
    for joint in scope.joints:
        settings = joint_settings(joint, scope.settings.with_(mix="all"))
        check_settings(settings, list(start.data.tasks.values()))
        piece, job = joint_piece(shop, start, settings, shop.seed, "balanced")
        title = f"one model trained on all tasks in every step, {joint.words}"
        joints.append(JointModel(joint.system, title, piece))
        work.append((piece, job))
    specialists: dict[str, Piece] = {}
    for task in start.data.tasks:
        if task in given:
            piece, job = _given_piece(shop, start, task, given[task], scope.head)
        else:
            piece, job = specialist_piece(shop, start, task, scope.settings, shop.seed)
        specialists[task] = piece
        work.append((piece, job))
    tally = shop.do("tuning", work)
    made = len(specialists) - len(given)
    parts = [f"{plural(len(given), 'given specialist')} taken"] if given else []
    tuned = [plural(made, "specialist")] if made else []
    tuned += [plural(len(joints), "joint model")] if joints else []
    parts += [f"{listed(tuned)} tuned"] if tuned else []
    shop.say(", ".join(parts), tally)
    courses = {name: piece.facts.get("evaluations", ()) for name, piece in specialists.items()}
    rising = tuple(rising_specialists(start.data.tasks, courses))
    for words in rising:
        shop.say(words, style="yellow")
    return Tuned(specialists, tuple(joints), rising)


def _given_piece(
    shop: Workshop, start: Start, task: str, given: GivenSpecialist, head: str | None
) -> tuple[Piece, Job]:
    read = {} if given.ours else {"order": given.order, "modules": given.modules}
    piece = shop.pieces.piece(
        f"specialist-{task}",
        given=hash_folder(given.folder),
        base=start.base.piece.key,
        task=start.data.tasks[task].content,
        **read,
        **(of_sort(head) if given.order is None else {}),
    )
    job = call(take_specialist, piece=piece, given=given.to_json(), base=start.base.encoder,
               task=start.data.folders[task], head=head)  # fmt: skip
    return piece, job


def specialists_candidate(start: Start, tuned: Tuned) -> ModelCandidate:
    """All specialists as one system, each for its own task."""
    places = {n: p.folder for n, p in tuned.specialists.items()}
    return ModelCandidate(
        name=SPECIALISTS,
        role="specialists",
        title="a model tuned for each task",
        encoders=places,
        heads=places,
        keys=keys(tuned.specialists),
        encoder_size=start.base.size,
        effort=Cost(
            training_seconds=seconds(tuned.specialists) + start.seconds,
            training_examples=sum(sum(p.facts["examples"].values()) for p in tuned.specialists.values()),
        ),
    )


def sharing_of(tuned: Tuned) -> list[SharingFacts]:
    """How the tasks of each joint model share, for those that share by a plan."""
    found = []
    for joint in tuned.joints:
        if "sharing" in joint.piece.facts:
            facts = checked(SharingFacts, joint.piece.facts["sharing"], f"read {joint.piece.key}", "build again")
            found.append(replace(facts, system=joint.name))
    return found


def joint_candidates(start: Start, tuned: Tuned) -> list[ModelCandidate]:
    """Each joint model as a system."""
    return [
        ModelCandidate.of_piece(
            joint.name,
            "joint",
            joint.title,
            joint.piece,
            start.data.tasks,
            joint.piece.facts["parameters"],
            Cost(
                training_seconds=joint.piece.facts["seconds"] + start.seconds,
                training_examples=sum(joint.piece.facts["examples"].values()),
            ),
        )
        for joint in tuned.joints
    ]
