"""What a strategy is: which weights an arrival may change, what is remembered, what guards the old, how heads come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from allround.continual.stream import SCENARIOS, Scenario
from allround.core import registry


@dataclass(frozen=True)
class Strategy:
    """The parts that a strategy is made of.

    changes: what an arrival may change: the encoder and the heads of its tasks ("all"), or heads alone ("heads"): then
    what old tasks answer stays as it was to the bit, unless they share a head with the new ones.
    anew: each arrival begins from the base, with all rows that are remembered.
    merge: a copy of the base is tuned on an arrival alone, and this share of its change is added to the encoder. None:
    the encoder itself is tuned.
    memory: a method of the family `memory`, or "none". bytes: of its rows at most; None keeps all of them.
    replay: train on remembered rows together with new ones; else only guards and ways to make heads see them.
    guards: terms that hold the old behaviour, with their settings. What they remember counts as memory too.
    head: a method of the family `head_policy`, which makes the heads after an arrival, with its settings; "trained"
    leaves them as they were trained.
    grow: a method of the family `grow`, what the strategy learns with, with its settings: "same" is one encoder, others
    add parts. select: a method of the family `select`, which tells the part that a row is for, with its settings.
    scenarios: those that it can be used in.
    """

    changes: Literal["all", "heads"] = "all"
    anew: bool = False
    merge: float | None = None
    memory: str = "none"
    bytes: int | None = None
    replay: bool = True
    guards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    head: str = "trained"
    head_settings: Mapping[str, Any] = field(default_factory=dict)
    grow: str = "same"
    grow_settings: Mapping[str, Any] = field(default_factory=dict)
    select: str = "even"
    select_settings: Mapping[str, Any] = field(default_factory=dict)
    scenarios: tuple[Scenario, ...] = SCENARIOS

    @property
    def from_base(self) -> bool:
        """Whether learning an arrival begins from the base."""
        return self.anew or self.merge is not None

    @property
    def exact(self) -> bool:
        """Whether old tasks with heads of their own are answered as before, to the bit."""
        alone = self.changes == "heads" and not self.anew
        return alone or bool(registry.find("grow", self.grow).facts["exact"])


def strategy_of(name: str, values: Mapping[str, object] | None = None) -> Strategy:
    """The strategy of a preset. Errors: no such preset; parameters that it does not have.

    >>> strategy_of("none").memory
    'none'
    """
    entry = registry.find("strategy", name)
    made: Strategy = entry.load()(**entry.resolve(values or {}))
    return made
