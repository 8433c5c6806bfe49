"""LIMIT: few rows of a new label are enough, because the first arrival was learned as if labels came later."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Zhou et al., TPAMI 2023, arXiv:2203.17030; checked against models/limit/ of zhoudw-zdw/TPAMI-Limit",
    paper="Few-Shot Class-Incremental Learning by Sampling Multi-Phase Tasks",
)
def limit(*, shots: int = 1, episodes: int = 4, steps: int = 100, rate: float = 0.001) -> Strategy:
    """The encoder stays as it is, and no row is remembered, but the mean of each label. For a first arrival with
    several labels, and later ones with few rows; better than the nearest mean, and with many rows far behind `ridge`.

    shots, episodes, steps, rate: see the way to make heads `calibrated`. Differs: see there.
    """
    settings = {"shots": shots, "episodes": episodes, "steps": steps, "rate": rate}
    return Strategy(changes="heads", head="calibrated", head_settings=settings, scenarios=("class",))
