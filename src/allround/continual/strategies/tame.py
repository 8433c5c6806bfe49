"""TAME: experts that are switched when the loss jumps, and a network that tells which one a row is for."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Zhu et al., 2022, arXiv:2210.03869; checked against unsigned public code",
    paper="TAME: Task Agnostic Continual Learning using Multiple Experts",
)
def tame(
    *,
    bytes: int = 50_000,
    memory: str = "balanced",
    batch: int = 16,
    window: int = 8,
    smoothing: float = 0.7,
    deviations: float = 3.0,
    prune: float = 0.5,
) -> Strategy:
    """Nobody says where an arrival ends: an expert learns until rows come whose loss is too large for it; then one that
    they fit takes over, or a new one. A network picks the expert of each test row.

    bytes, memory: of the remembered rows, which the network is trained on. batch, window, smoothing, deviations, prune:
    see the way to grow `switch`.
    """
    settings = {"batch": batch, "window": window, "smoothing": smoothing, "deviations": deviations, "prune": prune}
    return Strategy(
        grow="switch",
        grow_settings=settings,
        select="trained",
        select_settings={"share": prune},
        memory=memory,
        bytes=bytes,
        scenarios=("free", "domain"),
    )
