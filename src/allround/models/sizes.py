"""Models whose vectors are the first numbers of another's."""

from __future__ import annotations

from collections.abc import Sequence

from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.wrapping import first_places, width_of
from allround.tasks.metric import needs_scores, score_of
from allround.tasks.task import Task


def at_size(model: MultiTaskModel, size: int) -> MultiTaskModel:
    """A model with the same weights whose vectors are the first `size` numbers of this one's, as the term `matryoshka`
    trains them. Heads read what is left of their features.

    Errors: an encoder or a head that cannot; no such size.
    """
    made = MultiTaskModel(model.encoder.at_size(size), {})
    for name, definition in model.definitions.items():
        head, vector = model.head(name), width_of(model.encoder, definition)
        made.add_task(definition, head.narrowed(first_places(head.width, vector, size)))
    made.facts = dict(model.facts)
    return made.eval()


def scores_by_size(
    model: MultiTaskModel, tasks: Sequence[Task], sizes: Sequence[int], split: str = "validation"
) -> dict[int, dict[str, float]]:
    """The scores of the tasks at each size of the vectors: size -> task -> score, of the whole vectors too, which come
    first; a vector takes four bytes a number. Errors: as `at_size`.
    """
    whole = width_of(model.encoder, model.definition(tasks[0].name))
    found: dict[int, dict[str, float]] = {}
    for size in (whole, *sorted({*sizes} - {whole}, reverse=True)):
        made = model if size == whole else at_size(model, size)
        found[size] = scores_of(made, tasks, split)
    return found


def scores_of(model: MultiTaskModel, tasks: Sequence[Task], split: str) -> dict[str, float]:
    """The scores of a model on a split of tasks, by task."""
    found = {}
    for task in tasks:
        rows, definition = task.splits[split], model.definition(task.name)
        answers = model.answers(task.name, rows.inputs, scores=needs_scores(definition.metric))
        found[task.name] = score_of(definition, rows.targets, answers.predictions, answers.scores)
    return found
