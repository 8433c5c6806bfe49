"""Stop and go: a task that has stopped getting better is drawn less, until it gets worse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.training.sampling import Mixture, Policy, by_size


@method(
    source="dynamic stop-and-go: Lu et al., CVPR 2020, arXiv:1912.02315; thresholds of their code",
    paper="12-in-1: Multi-Task Vision and Language Representation Learning",
    feedback=True,
)
class StopAndGo(Policy):
    """A feed stops after two evaluations in a row that are not better than its best by `better` of it; it goes again
    when its score falls `worse` of it below the best. One that is stopped is drawn once where it would be drawn `gap`
    times. After a stop and after a start, one evaluation does not count against the feed.

    The evaluation before the first step counts, so the first stop can come after the second evaluation behind it.
    power: the shares of feeds that go follow the rows to this power (0 equal, as in the paper; 1 proportional).
    resets: shares of the training, above 0 and below 1; at the first evaluation from there on all feeds go again and
    their best scores are forgotten.

    Formula: share_f ~ n_f^power * (1 / gap if stopped else 1)
    Differs: all feeds are evaluated together and the number of batches is fixed; in the paper each task is evaluated
    once in its own epoch, and a step in which tasks are stopped is shorter. The authors' code resets after the 6th and
    the 8th epoch, about when its rate drops to a fifth; here the rate falls all along, and nothing is reset unless
    `resets` says so.

    >>> policy = StopAndGo(Mixture(("a", "b"), (300, 100), ("classification",) * 2))
    >>> for step in range(4):
    ...     policy.evaluated([1.0 + step, 1.0], step / 10)
    >>> policy.shares(0.4)
    [0.8, 0.2]
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        better: float = 0.001,
        worse: float = 0.005,
        gap: int = 4,
        power: float = 0.0,
        resets: Sequence[float] = (),
    ) -> None:
        super().__init__(mixture)
        if gap < 1 or better < 0 or worse < 0:
            raise AllroundError(
                f"sample by stop and go with better={better}, worse={worse}, gap={gap}",
                "a threshold is below 0, or the gap below 1",
                "give shares of the best score such as 0.001 and 0.005, and a gap such as 4",
            )
        if not isinstance(resets, list | tuple) or not all(isinstance(at, float) and 0 < at < 1 for at in resets):
            raise AllroundError(
                f"sample by stop and go with resets={resets!r}",
                "it is not a list of shares of the training",
                "give numbers above 0 and below 1 in a list, such as [0.3, 0.4]",
            )
        self.better, self.worse, self.gap, self.resets = better, worse, gap, resets
        self.going = by_size(mixture.sizes, power)
        self.state = {**self._fresh(), "progress": torch.zeros((), dtype=torch.float64)}

    def _fresh(self) -> dict[str, Tensor]:
        """What is known of feeds that have not been evaluated."""
        zeros = torch.zeros(len(self.mixture), dtype=torch.float64)
        return {"best": zeros - math.inf, "waits": zeros, "cooldown": zeros.clone(), "stopped": zeros.clone()}

    def shares(self, progress: float) -> list[float]:
        parts = [
            share / self.gap if stopped else share
            for share, stopped in zip(self.going, self.state["stopped"].tolist(), strict=True)
        ]
        return [part / sum(parts) for part in parts]

    def evaluated(self, scores: Sequence[float], progress: float) -> None:
        before = float(self.state["progress"])
        columns = {name: self.state[name].tolist() for name in self._fresh()}
        for f, score in enumerate(scores):
            best, waits, cooldown, stopped = (columns[n][f] for n in ("best", "waits", "cooldown", "stopped"))
            if math.isfinite(score) and (best == -math.inf or score > best + self.better * abs(best)):
                best, waits = score, 0
            else:
                waits += 1
            if cooldown:
                cooldown, waits = cooldown - 1, 0
            if waits > 1:
                stopped, cooldown, waits = 1, 1, 0
            elif stopped and score < best - self.worse * abs(best):
                stopped, cooldown, waits = 0, 1, 0
            for name, value in zip(columns, (best, waits, cooldown, stopped), strict=True):
                columns[name][f] = value
        found = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
        if any(before < at <= progress for at in self.resets):
            found = self._fresh()
        self.state = {**found, "progress": torch.tensor(progress, dtype=torch.float64)}
