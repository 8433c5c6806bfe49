"""TPL: a LoRA for each arrival, which learns what others are like, and the likelihood ratio that tells arrivals."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Lin et al., ICLR 2024, arXiv:2309.15048; checked against linhaowei1/TPL",
    paper="Class Incremental Learning via Likelihood Ratio Based Task Prediction",
)
def tpl(
    *,
    bytes: int = 50_000,
    memory: str = "balanced",
    rank: int = 8,
    neighbours: int = 50,
    temperature: float = 0.05,
    ridge: float = 0.1,
) -> Strategy:
    """The encoder is frozen. Each arrival trains modules of its own, with remembered rows of earlier arrivals as one
    label more; P(label) = P(arrival) P(label | arrival).

    bytes, memory: as for `er`. rank: of LoRA. neighbours, temperature, ridge: see the way to select
    `likelihood_ratio`. Differs: a LoRA for each arrival where the authors have adapters that all share, and HAT masks
    that protect them; see also there.
    """
    return Strategy(
        grow="residual_others",
        grow_settings={"rank": rank},
        select="likelihood_ratio",
        select_settings={"neighbours": neighbours, "temperature": temperature, "ridge": ridge},
        memory=memory,
        bytes=bytes,
        scenarios=("class", "task"),
    )
