"""Neural Weight Search: each arrival is numbers of kernels in pools that never change."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="README.md and models/quantizer.py of JianJiangKCL/NeuralWeightSearch",
    paper="Neural Weight Search for Scalable Task Incremental Learning",
)
def neural_weight_search(*, entries: int = 512, commitment: float = 0.5, select: str = "keys") -> Strategy:
    """Each arrival searches, for each kernel of the encoder, the best entry of its layer's pool, and is kept as numbers
    of two bytes beside its biases and scales. Old tasks answer as before to the bit.

    entries, commitment: see the way to grow `weight_search`. select: what tells the arrival of a row where that is not
    known, a method of the family `select`.
    Differs: pools are made of the base's own kernels by k-means; the authors learn them in a training on ImageNet.
    """
    settings = {"entries": entries, "commitment": commitment}
    return Strategy(grow="weight_search", grow_settings=settings, select=select)
