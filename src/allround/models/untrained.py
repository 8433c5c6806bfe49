"""Heads of tasks that nothing is trained on."""

from __future__ import annotations

from allround.core.errors import AllroundError
from allround.models.encoder import Encoder
from allround.models.head import HeadState, make_head
from allround.tasks.definition import Definition
from allround.tasks.roles import HELD_OUT


def untrained_head(encoder: Encoder, definition: Definition, sort: str | None = None) -> HeadState:
    """The head of a task that nothing is trained on. sort: None is what the encoder would choose.

    Errors: a head of this sort has weights, which must be trained.
    """
    sort = encoder.head(definition) if definition.harness or sort is None else sort
    headed = encoder.headed(definition, sort)
    encoder.check(headed)
    head = make_head(sort, headed, encoder.features(headed))
    if any(True for _ in head.parameters()):
        role = "held out" if definition.role == HELD_OUT else "a guard"
        raise AllroundError(
            f"answer the task '{definition.name}', which is {role}",
            f"a {sort} head needs training rows, and nothing is trained on a task that is {role}",
            "use a language model, whose heads `choices` and `generate` need none; or give the task `role: train`",
        )
    return head.stored()


def needs_training(encoder: Encoder, definition: Definition, sort: str | None = None) -> bool:
    """Whether the head of a task has weights. sort: None is what the encoder would choose."""
    sort = encoder.head(definition) if definition.harness or sort is None else sort
    headed = encoder.headed(definition, sort)
    encoder.check(headed)
    head = make_head(sort, headed, encoder.features(headed))
    return any(True for _ in head.parameters())
