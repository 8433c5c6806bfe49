"""nce: how much the label that the source's model gives to a row says of its class in the target."""

from __future__ import annotations

import numpy as np

from allround.core.registry import method
from allround.transfer.matrix import Values
from allround.transfer.task_rows import Classes
from allround.transfer.view import TransferView


@method(
    source="negative conditional entropy: Tran et al., ICCV 2019, arXiv:1908.08142; Transfer-Learning-Library",
    needs=("heads", "labels"),
    cheap=True,
)
def nce(view: TransferView) -> Values:
    """Let the source's model (its specialist, or its head on the base) label the target's rows.

    Formula: value(s, t) = -H(y | z) in nats, over the target's rows; z is the source's most probable label
    It is known where both tasks have one class for each row.

    >>> round(score(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])), 4)
    -0.3466
    """

    def labels(source: str, target: str) -> Classes | None:
        found = view.probabilities(source, target)
        return None if found is None else found.argmax(1)

    return view.table(score, lambda source, target: (labels(source, target), view.classes(target)))


def score(labels: Classes, classes: Classes) -> float:
    """Shapes: the source's labels (n,), the target's classes (n,)."""
    joint = np.unique(np.stack([labels, classes]), axis=1, return_counts=True)
    mass = dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True))
    shares = [count / len(labels) * np.log(count / mass[label])
              for (label, _), count in zip(joint[0].T.tolist(), joint[1].tolist(), strict=True)]  # fmt: skip
    return float(np.sum(shares))
