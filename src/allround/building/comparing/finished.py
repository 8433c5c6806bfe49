"""The finished systems of a comparison: every method and the specialists with every seed, and their predictions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from allround.building.candidates import ModelCandidate, PerTaskCandidate
from allround.building.comparing.choices import Chosen
from allround.building.comparing.trainings import drop_weights, has_weights
from allround.building.jobs.predict import loaded_predictions
from allround.building.stages.predicting import predict, prediction_pieces
from allround.core.jobs import Job
from allround.core.pieces import Piece
from allround.core.words import plural
from allround.evaluation.predictions import Predictions
from allround.evaluation.training import SPECIALISTS


def finished_systems(chosen: Chosen, seeds: Sequence[int]) -> dict[tuple[str, int], ModelCandidate]:
    """The specialists and every method, by name and seed; two names of one training are one system."""
    trainings, found = chosen.trainings, {}
    tasks, size = trainings.tasks, trainings.start.base.size
    for seed in seeds:
        pieces = {n: chosen.specialist(n, seed)[0] for n in tasks}
        places = {n: piece.folder for n, piece in pieces.items()}
        keys = {n: piece.key for n, piece in pieces.items()}
        found[SPECIALISTS, seed] = ModelCandidate(
            f"{SPECIALISTS}-{seed}", "specialists", "a model tuned for each task", places, places, keys, size
        )
        made: dict[str, ModelCandidate] = {}
        for name in trainings.joints:
            piece, _ = chosen.joint(name, seed)
            plain = re.sub(r"[^A-Za-z0-9_.]+", "_", name)
            if piece.key not in made:
                made[piece.key] = ModelCandidate.of_piece(f"{plain}-{seed}", "joint", name, piece, tasks, size)
            found[name, seed] = made[piece.key]
    return found


def final_work(chosen: Chosen, seeds: Sequence[int]) -> list[tuple[Piece, Job]]:
    """All trainings with their chosen settings, each once.

    Those whose answers on test are there need not be made again, though their weights are gone; others whose weights
    are gone are made anew.
    """
    trainings = chosen.trainings
    work: dict[str, tuple[Piece, Job]] = {}
    systems = finished_systems(chosen, seeds)

    def want(made: tuple[Piece, Job], system: ModelCandidate, tasks: Sequence[str]) -> None:
        piece, _ = made
        answers = prediction_pieces(trainings.shop.pieces, system, trainings.start.data, "test")
        if piece.done and not has_weights(piece) and not all(answers[task].done for task in tasks):
            piece.remove()
        work[piece.key] = made

    for seed in seeds:
        for name in trainings.joints:
            want(chosen.joint(name, seed), systems[name, seed], trainings.tasks)
        for task in trainings.tasks:
            want(chosen.specialist(task, seed), systems[SPECIALISTS, seed], [task])
    return list(work.values())


def train_all(
    chosen: Chosen, seeds: Sequence[int], beside: Sequence[PerTaskCandidate] = ()
) -> Mapping[tuple[str, int, str], Predictions]:
    """Train everything with every seed, and predict the test rows once; predictions by system, seed and task.

    Of the first seed's models the weights are kept. beside: systems that do not depend on the seed; they have the same
    predictions with each.
    """
    trainings = chosen.trainings
    shop, data = trainings.shop, trainings.start.data
    tally = shop.do("all seeds", final_work(chosen, seeds))
    shop.say(f"all methods and specialists trained with {plural(len(seeds), 'seed')}", tally)
    systems: dict[tuple[str, int], ModelCandidate | PerTaskCandidate] = {**finished_systems(chosen, seeds)}
    systems |= {(one.name, seed): one for one in beside for seed in seeds}
    different = list({id(system): system for system in systems.values()}.values())
    tally = predict(shop, different, data, "test", trainings.settings.device)
    shop.say(f"{plural(len(different), 'system')} scored on {plural(data.rows('test'), 'test row')}", tally)
    kept = {chosen.joint(name, seeds[0])[0].key for name in trainings.joints}
    drop_weights(piece for piece, _ in final_work(chosen, seeds) if piece.key not in kept)
    return {
        (name, seed, task): loaded_predictions(piece)
        for (name, seed), system in systems.items()
        for task, piece in prediction_pieces(shop.pieces, system, data, "test").items()
    }
