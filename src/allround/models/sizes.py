"""Models whose vectors are the first numbers of another's."""

from __future__ import annotations

from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.wrapping import first_places, width_of


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
