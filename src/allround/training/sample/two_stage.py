"""Two stages: first the tasks with many rows alone, then all of them."""

from __future__ import annotations

from collections.abc import Sequence

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.training.sampling import Mixture, Policy, by_size, numbers_of


@method(
    source="pre-training, then joint fine-tuning: Choi et al., NeurIPS 2023, arXiv:2312.06134",
    paper="Order Matters in the Presence of Dataset Imbalance for Multilingual Learning",
    restarts=True,
)
class TwoStage(Policy):
    """Up to `first` of the training only the high-resource feeds are drawn, then all; the rate's schedule begins anew.

    high: names of the feeds of the first stage; without it, those with at least half as many rows as the largest.
    power: shares in both stages follow the rows to this power (0 equal, 1 proportional). Where every feed is
    high-resource, there is one stage and no restart. The anti-curriculum of decaNLP is this with the hardest task as
    `high` and equal shares.

    Formula: share_f ~ n_f^power [f in high] before `first`, n_f^power after it
    Differs: which tasks are high-resource, and the length of the first stage, the paper chooses for each experiment.

    >>> policy = TwoStage(Mixture(("large", "small"), (300, 100), ("classification",) * 2), first=0.25)
    >>> policy.changes, policy.shares(0.0), policy.shares(0.25)
    ((0.25,), [1.0, 0.0], [0.75, 0.25])
    """

    def __init__(self, mixture: Mixture, *, high: Sequence[str] = (), first: float = 0.5, power: float = 1.0) -> None:
        super().__init__(mixture)
        if not 0 < first < 1:
            raise AllroundError(
                f"sample in two stages, the first {first} of the training",
                "that leaves no two stages",
                "give a number between 0 and 1",
            )
        sizes = mixture.sizes
        chosen = set(numbers_of(high, mixture, "high")) or {f for f, n in enumerate(sizes) if 2 * n >= max(sizes)}
        self.joint = by_size(sizes, power)
        alone = [share if f in chosen else 0.0 for f, share in enumerate(self.joint)]
        self.alone = [share / sum(alone) for share in alone]
        self.changes = (first,) if len(chosen) < len(mixture) else ()

    def shares(self, progress: float) -> list[float]:
        return list(self.alone if self.changes and progress < self.changes[0] else self.joint)
