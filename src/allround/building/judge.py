"""The comparison of systems by their validation scores, and the choice of the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from allround.building.options import Constraints
from allround.core.words import plural
from allround.evaluation.intervals import retention
from allround.tasks.metric import better


@dataclass(frozen=True)
class Judge:
    """Compares systems by their validation scores, with those of the reference.

    metrics: of the tasks that the mean is over. guards: of tasks that may rule a system out, and do nothing else.
    """

    metrics: Mapping[str, str]
    reference: Mapping[str, float]
    guards: Mapping[str, str] = field(default_factory=dict)

    def retentions(self, scores: Mapping[str, float]) -> dict[str, float | None]:
        return {n: retention(scores[n], self.reference[n], better(m)) for n, m in self.metrics.items()}

    def kept(self, scores: Mapping[str, float]) -> dict[str, float | None]:
        """How much of the reference's score on each guard is kept."""
        return {n: retention(scores[n], self.reference[n], better(m)) for n, m in self.guards.items()}

    def mean(self, scores: Mapping[str, float]) -> float:
        """Mean retention over the tasks where it is defined.

        >>> Judge({"a": "accuracy", "b": "accuracy"}, {"a": 0.5, "b": 1.0}).mean({"a": 0.5, "b": 0.5})
        0.75
        """
        known = [r for r in self.retentions(scores).values() if r is not None]
        return sum(known) / len(known) if known else 0.0

    def choose(
        self,
        scores: Mapping[str, Mapping[str, float]],
        parameters: Mapping[str, int],
        constraints: Constraints,
        tried: int,
    ) -> tuple[str, str]:
        """The best of the candidates under the constraints, and the choice in words.

        scores: candidate -> task -> validation score. parameters: candidate -> numbers stored. tried: merge settings
        compared on the way, for the words. Of equals, the first named is taken.
        """
        ranked = sorted(scores, key=lambda name: -self.mean(scores[name]))
        broken = {
            n: constraints.broken(self.retentions(scores[n]), parameters[n], self.kept(scores[n])) for n in ranked
        }
        allowed = [n for n in ranked if not broken[n]]
        best = (allowed or ranked)[0]
        words = (
            f"Chosen on validation: {best}, mean retention {100 * self.mean(scores[best]):.1f}%, out of "
            f"{plural(len(ranked), 'single model' if constraints.single else 'system')} "
            f"({plural(tried, 'merge setting')} tried)."
        )
        if constraints.words():
            words += f" Asked for: {constraints.words()}."
            if not allowed:
                found = "single model" if constraints.single else "system"
                words += f" No {found} satisfies that on validation; {best} {'; '.join(broken[best])}."
            elif best != ranked[0]:
                words += f" {ranked[0]} is better but {'; '.join(broken[ranked[0]])}."
        return best, words
