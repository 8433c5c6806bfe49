"""taskemb: whether the answers of two tasks' rows pull at the same features of the base."""

from __future__ import annotations

from functools import partial

from allround.core.registry import method
from allround.transfer.estimating import cosine
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="TaskEmb: Vu et al., EMNLP 2020, arXiv:2005.00770; Poth et al., EMNLP 2021, arXiv:2104.08247",
    needs=("features", "labels"),
    symmetric=True,
    self_best=True,
    cheap=True,
)
def taskemb(view: TransferView) -> Values:
    """Compare tasks by how strongly the labels of their rows pull at each of the base's features, under a linear head
    fitted on each task. `task2vec` asks the same of the answers that the head itself expects.

    Formula: value(s, t) = cos(e_s, e_t); e_j = mean over rows (x, y) of (d log p(y | x) / d f_j)^2
    Differs: the information is that of the last features alone, where the papers take all layers of a tuned model. The
    code of Poth et al. squares the summed gradient of a batch, so that its embedding depends on the size of batches;
    here each row's gradient is squared.

    >>> from allround.models.encoders.small_image import SmallImage
    >>> from allround.tasks.suite import Suite
    >>> view = TransferView.of(Suite.load("digits", only=["digit", "parity"]), SmallImage(size=8), limit=40)
    >>> taskemb(view).round(4)[0, 0].item()
    1.0
    """
    return view.between(cosine, partial(view.fisher, observed=True))
