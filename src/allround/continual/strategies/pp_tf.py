"""PP-TF: prompts that belong to arrivals from the start, and keys that find them at test time."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Yadav et al., ACL 2023, arXiv:2307.02435, section 5 (prompt pooling with teacher forcing)",
    paper="Exploring Continual Learning for Code Generation Models",
)
def pp_tf(*, length: int = 16, temperature: float = 0.01) -> Strategy:
    """A pool of prompts on a frozen text or vision transformer, where each arrival has entries of its own: in training
    it takes these, whatever the keys say, and at test time those with the nearest key. Old prompts are never changed.

    length: vectors of each arrival. temperature: see the way to select `cosine`.

    Differs: the entries of an arrival are one prompt with one key, since entries that are always taken together learn
    together; a head for each arrival answers, where the authors' model writes. The paper's repository cannot be had:
    this follows its text.
    """
    return Strategy(
        grow="residual",
        grow_settings={"share": f"prompt_tuning:length={length}"},
        select="cosine",
        select_settings={"temperature": temperature},
    )
