"""What pages and files say of routed systems: how often the router finds the module of a row's own task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allround.core.schema import STRICT
from allround.core.words import listed, percent, plural, size_text


@dataclass(frozen=True)
class RoutingFacts:
    """How a system routes test rows, without being told their task.

    way: router and combination. bytes: of a module, as a mean. base_bytes: of the base. found: by task, the share of
    rows whose largest weight goes to the task's own module. alone: by task, the share of rows that are answered right
    where the router chooses the head too; only of tasks that are scored by accuracy. further: names of modules of a
    library that are of no task of the build.
    """

    __pydantic_config__ = STRICT

    system: str
    way: str
    bytes: int
    base_bytes: int
    found: Mapping[str, float]
    alone: Mapping[str, float]
    further: Sequence[str] = ()

    @property
    def words(self) -> str:
        """The means in a sentence.

        >>> facts = RoutingFacts("r", "arrow", 500_000, 90_000_000, {"a": 1.0, "b": 0.9}, {"a": 0.8})
        >>> facts.words.partition(", as")[0]
        "It finds the module of the row's own task for 95.0% of the test rows"
        >>> facts.words.partition("and ")[2]
        'stores 500.0 kB for each further task, 0.6% of the base.'
        """
        mean = percent(sum(self.found.values()) / len(self.found))
        share = percent(self.bytes / self.base_bytes)
        beside = ""
        if self.further:
            of = "that is of none of the tasks" if len(self.further) == 1 else "that are of none of the tasks"
            beside = f" It also has {plural(len(self.further), 'module')} of the library {of}: {listed(self.further)}."
        return (
            f"It finds the module of the row's own task for {mean}% of the test rows, as a mean over tasks, and stores "
            f"{size_text(self.bytes)} for each further task, {share}% of the base.{beside}"
        )
