"""The parts of a system that grows: which bodies there are, and which of their tasks answers what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from allround.core.schema import STRICT
from allround.models.encoder import Encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.wrapping import Wrapping
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

#: The arrival of a part that is for rows of no arrival that was.
UNSEEN = -1


@dataclass(frozen=True)
class Part:
    """What answers a task as one arrival brought it: a task of one of the bodies. arrival: its number, or `UNSEEN`."""

    __pydantic_config__ = STRICT

    task: str
    arrival: int
    body: int
    name: str


class PartHolder:
    """Bodies and parts.

    definitions: of the tasks, with the labels of all parts. bodies: models whose tasks the parts are. base: the encoder
    as it was in the beginning, where no body holds it.
    """

    definitions: dict[str, Definition]
    bodies: list[MultiTaskModel]
    parts: list[Part]
    base: Encoder | None

    def definition_of(self, part: int) -> Definition:
        """What a part answers, with its own labels."""
        one = self.parts[part]
        return self.bodies[one.body].definition(one.name)

    @contextmanager
    def plain(self) -> Iterator[Encoder]:
        """The encoder as it was in the beginning."""
        if self.base is not None:
            yield self.base
            return
        encoder = self.bodies[0].encoder
        assert isinstance(encoder, Wrapping)
        with encoder.plain() as inner:
            yield inner


def mixes(definition: Definition) -> bool:
    """Whether parts with labels of their own can answer a task together: each row has one label."""
    rules = kind(definition.kind)
    return rules.exclusive and rules.fixed_labels and not rules.per_token
