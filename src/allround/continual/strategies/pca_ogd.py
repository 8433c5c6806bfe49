"""PCA-OGD: steps are orthogonal to the directions in which earlier answers change most."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(
    source="Doan et al., AISTATS 2021, arXiv:2010.04003, algorithm 1; algos/ogd.py of tldoan/PCA-OGD",
    paper="A Theoretical Analysis of Catastrophic Forgetting through the NTK Overlap Matrix",
)
def pca_ogd(*, directions: int = 40, sample: int = 200, centred: bool = False) -> Strategy:
    """Tune the model on each arrival with the guard `ogd`, which keeps `directions` principal components of the
    gradients of `sample` rows of each task. centred: take the mean off first, as the authors' code does."""
    return Strategy(guards={"ogd": {"directions": directions, "sample": sample, "centred": centred}})
