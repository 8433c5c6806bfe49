"""Flips: rows that one version of a model answers rightly and another one wrongly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allround.evaluation.intervals import check_same_rows
from allround.evaluation.predictions import Predictions
from allround.evaluation.ranked import first_right
from allround.tasks.kind import Encoded, kind


@dataclass(frozen=True)
class Flips:
    """Rows of a task by what two versions say of them.

    lost: right before, and wrong now (negative flips; Yan et al., CVPR 2021, arXiv:2011.09161). gained: wrong before,
    and right now. changed: wrong before and now, in another way.

    >>> flips = Flips(rows=200, lost=3, gained=5, changed=2)
    >>> flips.lost_share, flips.any
    (0.015, True)
    """

    rows: int
    lost: int
    gained: int
    changed: int

    @property
    def lost_share(self) -> float:
        """The share of all rows that were answered rightly and are not any more."""
        return self.lost / self.rows

    @property
    def any(self) -> bool:
        """Whether any answer changed."""
        return bool(self.lost or self.gained or self.changed)


def flips_of(before: Predictions, after: Predictions) -> Flips | None:
    """What changed between two versions of a model on the same rows. None where answers are not simply right or wrong:
    numbers, whose errors have a size.

    Errors: predictions of other rows.

    >>> import numpy as np
    >>> from allround.tasks.definition import Definition
    >>> d = Definition("t", "classification", ("x",), "text", "accuracy", ("no", "yes", "perhaps"))
    >>> made = [Predictions(d, "test", np.array([0, 1, 1, 0]), np.array(said)) for said in ([0, 1, 0, 2], [1, 1, 1, 1])]
    >>> flips_of(*made)
    Flips(rows=4, lost=1, gained=1, changed=1)
    """
    check_same_rows(before, after, "count the answers that changed")
    if kind(before.definition.kind).numeric:
        return None
    was, now = right_rows(before), right_rows(after)
    same = equal_rows(before.predictions, after.predictions)
    return Flips(len(before), int((was & ~now).sum()), int((~was & now).sum()), int((~was & ~now & ~same).sum()))


def right_rows(predictions: Predictions) -> NDArray[np.bool_]:
    """(n,): whether each row is answered rightly: the label, all labels, the tag of each word, an accepted text, or a
    relevant passage at the top."""
    targets, said = predictions.targets, predictions.predictions
    if kind(predictions.definition.kind).ranked:
        return first_right(targets, said)
    if kind(predictions.definition.kind).written:
        pairs = zip(targets, said, strict=True)
        return np.array([answer in accepted for accepted, (answer,) in pairs], dtype=bool)
    return equal_rows(targets, said)


def equal_rows(one: Encoded, other: Encoded) -> NDArray[np.bool_]:
    """(n,): whether two encoded lists of rows are the same in each row.

    >>> equal_rows(np.array([1, 2]), np.array([1, 3])).tolist()
    [True, False]
    """
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        same: NDArray[np.bool_] = np.asarray(one == other, dtype=bool).reshape(len(one), -1)
        return np.asarray(same.all(axis=1))
    return np.array([np.array_equal(a, b) for a, b in zip(one, other, strict=True)], dtype=bool)
