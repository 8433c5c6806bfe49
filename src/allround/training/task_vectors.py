"""Vectors of tasks that are not learned: what their descriptions say, and what they are like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from allround.models.encoder import Encoder
from allround.models.running import features_of
from allround.models.share.plan import Plan
from allround.tasks.definition import Definition
from allround.tasks.kind import kind

#: As which task descriptions are read.
_READ = Definition("description", "classification", ("text",), "text", "accuracy", ("no", "yes"), head="linear")


def with_vectors(plan: Plan, encoder: Encoder, definitions: Mapping[str, Definition]) -> Plan:
    """A plan with the vectors of tasks that it asks for, where they are not learned."""
    wanted = plan.vectors
    if wanted is None or wanted.given or wanted.source == "learned":
        return plan
    if wanted.source == "attributes":
        given = {name: attributes(definition) for name, definition in definitions.items()}
    elif "text" in encoder.modalities:
        rows = encoder.prepare([(described(d),) for d in definitions.values()], _READ)
        found = features_of(encoder, rows, _READ).values
        # Of about the size that learned vectors begin with.
        found = found / found.std(-1, keepdim=True).clamp_min(1e-6)
        given = {name: tuple(row) for name, row in zip(definitions, found.tolist(), strict=True)}
    else:
        return plan
    return replace(plan, vectors=replace(wanted, given=given))


def described(definition: Definition) -> str:
    """A task in words: its instruction, or its name, columns and labels.

    >>> described(Definition("mood", "classification", ("text",), "text", "accuracy", ("bad", "good")))
    'mood: classification of text; bad, good'
    """
    labels = f"; {', '.join(definition.labels)}" if definition.labels else ""
    about = f"{definition.name}: {definition.kind} of {', '.join(definition.inputs)}{labels}"
    return definition.instruction or about.replace("_", " ")


def attributes(definition: Definition) -> tuple[float, ...]:
    """Eight marks of what a task is like: texts, images, tables; a pair; word by word; numbers; an order; texts as
    answers."""
    rules = kind(definition.kind)
    marks = (
        definition.modality == "text",
        definition.modality == "image",
        definition.modality in ("table", "fields"),
        definition.pair,
        rules.per_token,
        rules.numeric,
        rules.ordered,
        rules.written,
    )
    return tuple(map(float, marks))
