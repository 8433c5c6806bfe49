"""sizes: how many training rows the source has."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.view import TransferView


@method(
    source="the size of the source's data: Poth et al., EMNLP 2021, arXiv:2104.08247",
    needs=("rows",),
    cheap=True,
)
def sizes(view: TransferView) -> Values:
    """Expect more of sources with more training rows, whatever the target is. It is the reference for all others.

    Formula: value(s, t) = log(training rows of s), all of them, also where the view looks at fewer

    >>> from allround.tasks.suite import Suite
    >>> sizes(TransferView.of(Suite.load("digits", only=["digit", "parity"]), limit=40)).round(2).tolist()
    [[6.98, 6.98], [6.98, 6.98]]
    """
    return view.table(lambda rows: float(np.log(rows)), lambda source, target: [view.size(source)])
