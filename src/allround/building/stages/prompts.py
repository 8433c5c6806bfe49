"""Tasks that are put in several ways: how base, reference and the chosen system score with each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from allround.building.candidates import Candidate
from allround.building.jobs.predict import loaded_predictions
from allround.building.stages.data import Data, keep_rows
from allround.building.stages.predicting import predict, prediction_pieces
from allround.building.workshop import Tally, Workshop
from allround.evaluation.predictions import Predictions
from allround.evaluation.prompt_scores import PromptScores, prompt_scores
from allround.tasks.task import Task


def score_prompts(
    shop: Workshop, systems: Sequence[Candidate], data: Data, device: str, *, resamples: int
) -> list[PromptScores]:
    """Predict the test rows of each task that has several prompts with each of them, and score them.

    Nothing is chosen by these scores. data: the tasks; what the first prompt gives is there already.
    """
    several = data.part([name for name, task in data.tasks.items() if templates(task) > 1])
    if not several.tasks:
        return []
    unlike = {one.name: one for one in systems}
    made: dict[tuple[str, str], list[Predictions]] = {}
    tally = Tally()
    for place in range(max(map(templates, several.tasks.values()))):
        put = several if place == 0 else keep_rows(shop, _variants(several.tasks, place))
        tally += predict(shop, list(unlike.values()), put, "test", device)
        for system in unlike.values():
            for name, piece in prediction_pieces(shop.pieces, system, put, "test").items():
                made.setdefault((system.name, name), []).append(loaded_predictions(piece))
    found = [prompt_scores(system, one, seed=shop.seed, resamples=resamples) for (system, _), one in made.items()]
    found.sort(key=lambda one: list(several.tasks).index(one.task))
    for one in found:
        shop.say(one.words)
    return found


def templates(task: Task) -> int:
    """How many prompts a task has."""
    return len(task.definition.prompt.templates) if task.definition.prompt is not None else 0


def _variants(tasks: Mapping[str, Task], place: int) -> dict[str, Task]:
    """The tasks that have a prompt of this number, put by it."""
    found = {}
    for name, task in tasks.items():
        prompt = task.definition.prompt
        if prompt is not None and place < len(prompt.templates):
            found[name] = replace(task, definition=replace(task.definition, prompt=prompt.using(place)))
    return found
