"""gaussian: the encoder stays as it is, and each label is a Gaussian with a common covariance."""

from __future__ import annotations

from allround.continual.strategy import Strategy
from allround.core.registry import method


@method(source="streaming LDA: Hayes and Kanan, CVPR workshops 2020, arXiv:1909.01520")
def gaussian() -> Strategy:
    """No gradient and no remembered row: means and one covariance give the heads. The order of arrivals does not
    matter."""
    return Strategy(changes="heads", head="gaussian")
