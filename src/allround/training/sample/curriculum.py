"""Curriculum: tasks from easy to hard, each in its own part of the training, or with those before it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

from allround.core.errors import AllroundError, suggestion
from allround.core.registry import method
from allround.training.sampling import Mixture, Policy, by_size, numbers_of


@method(
    source="mixed and sequential curriculum: Bhasin et al., NAACL 2024, arXiv:2404.03558",
    paper="How does Multi-Task Training Affect Transformer In-Context Capabilities? Investigations with Function "
    "Classes",
    restarts=True,
    exempt={
        "order": "without names in `order`, the order of the feeds is the curriculum",
        "rows": "the place in the curriculum decides how often a feed is drawn",
    },
)
class Curriculum(Policy):
    """The training has as many blocks of equal length as there are feeds. A block draws the feed whose turn it is and
    those before it (`mode="mixed"`), or that feed alone ("sequential").
    The rate's schedule begins anew with each block, so that what comes late is not learned at a rate of nearly zero.

    order: the names of all feeds from easy to hard; without it, as they come. power: within a block shares follow
    the rows to this power (0 equal, as in the paper; 1 proportional). The paper's random curriculum is `uniform`.

    Formula: share_f ~ n_f^power [place_f <= block] (mixed) or [place_f = block] (sequential), block = floor(progress F)
    Differs: in the paper's code the rate stays the same all along; here it rises and falls in each block.

    >>> feeds = Mixture(("easy", "hard"), (100, 100), ("regression",) * 2)
    >>> [Curriculum(feeds, mode=mode).shares(p) for mode in ("mixed", "sequential") for p in (0.0, 0.5)]
    [[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, mixture: Mixture, *, order: Sequence[str] = (), mode: str = "mixed", power: float = 0.0) -> None:
        super().__init__(mixture)
        if mode not in ("mixed", "sequential"):
            raise AllroundError(
                f"sample by a curriculum with mode={mode!r}",
                "there is no such mode",
                suggestion(mode, ("mixed", "sequential")),
            )
        self.places = numbers_of(order, mixture, "order") if order else list(range(len(mixture)))
        missing = [name for f, name in enumerate(mixture.names) if f not in self.places]
        if missing:
            raise AllroundError(
                f"sample by a curriculum in the order {', '.join(order)}",
                f"the order leaves out {', '.join(missing)}",
                "name everything that is drawn, from easy to hard",
            )
        self.mixed = mode == "mixed"
        self.whole = by_size(mixture.sizes, power)
        self.changes = tuple(block / len(mixture) for block in range(1, len(mixture)))

    def shares(self, progress: float) -> list[float]:
        block = bisect(self.changes, progress)
        drawn = self.places[: block + 1] if self.mixed else [self.places[block]]
        parts = [share if f in drawn else 0.0 for f, share in enumerate(self.whole)]
        return [part / sum(parts) for part in parts]
