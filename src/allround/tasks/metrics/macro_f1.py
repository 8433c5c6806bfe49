"""Macro F1: the harmonic mean of precision and recall of each label, averaged over labels."""

from __future__ import annotations

import warnings

import numpy as np

from allround.core.registry import method
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.metric import Array, Parts, PartsMetric, one_hot


@method(
    source="scikit-learn, f1_score(average='macro', zero_division=nan)",
    kinds=("classification", "ordinal", "multilabel"),
    better="higher",
)
class MacroF1(PartsMetric):
    """The F1 of each label, averaged over the labels that occur among targets or predictions, 0 to 1.

    0 where no label occurs at all.

    >>> d = Definition("t", "classification", ("x",), "text", "macro_f1", ("a", "b", "c"))
    >>> round(MacroF1().score(np.array([0, 0, 1]), np.array([0, 1, 1]), d), 4)
    0.6667
    """

    def score(self, targets: Encoded, predictions: Encoded, definition: Definition) -> float:
        from sklearn.exceptions import UndefinedMetricWarning
        from sklearn.metrics import f1_score

        labels = range(len(definition.labels))
        with warnings.catch_warnings():
            # A label that never occurs is left out, which is what zero_division=nan asks for.
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
            found = f1_score(targets, predictions, labels=labels, average="macro", zero_division=np.nan)
        return float(np.nan_to_num(found))

    def parts(self, targets: Encoded, predictions: Encoded, definition: Definition) -> Parts:
        from scipy.sparse import csr_array, hstack

        if kind(definition.kind).lists:
            true, said = (csr_array(np.asarray(a, dtype=np.float64)) for a in (targets, predictions))
        else:
            true, said = (one_hot(a, len(definition.labels)) for a in (targets, predictions))
        right = true * said
        return hstack([right, said - right, true - right], format="csr")

    def value(self, sums: Array, definition: Definition) -> Array:
        right, wrong, missed = np.split(sums, 3, axis=1)
        occurs = right + wrong + missed > 0
        f1 = 2 * right / np.where(occurs, 2 * right + wrong + missed, 1.0)
        scores: Array = f1.sum(1) / np.maximum(occurs.sum(1), 1)
        return scores
