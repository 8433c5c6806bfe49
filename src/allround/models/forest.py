"""Decision trees as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from allround.models.table_columns import CATEGORIES, Numbers

#: Trees times rows that are gone through at once, so that memory does not grow with both.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Forest:
    """Trees in arrays, those of all rounds and outputs one after the other.

    Of each node: `value` (of a leaf), `feature`, `threshold` (a number that is not above it goes left), `missing`
    (whether a missing number goes left), the places of its children `left` and `right`, and `group` (the row of `sets`
    that says which categories go left; -1 for a number). A leaf is its own left and right child. roots: the first node
    of each tree, ordered by round; the trees of one round belong to outputs 0, 1, ... base: what the sum of each output
    begins at.
    """

    value: Numbers
    feature: NDArray[np.int64]
    threshold: Numbers
    missing: NDArray[np.uint8]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    group: NDArray[np.int64]
    sets: NDArray[np.uint8]
    roots: NDArray[np.int64]
    base: Numbers

    def check(self, columns: int) -> None:
        """A ValueError unless every path ends in a leaf and reads what is there."""
        nodes = self.value.size
        each = (self.value, self.feature, self.threshold, self.missing, self.left, self.right, self.group)
        if any(array.shape != (nodes,) for array in each) or self.sets.shape[1:] != (CATEGORIES + 2,):
            raise ValueError("its arrays do not fit together")
        if self.roots.ndim != 1 or self.base.ndim != 1 or not len(self.base):
            raise ValueError("its arrays do not fit together")
        if not all(np.isfinite(array).all() for array in (self.value, self.base)) or np.isnan(self.threshold).any():
            raise ValueError("it holds NaN or infinity")
        places = np.arange(nodes)
        leaf = self.left == places
        if (self.right != places)[leaf].any():
            raise ValueError("a leaf has a child")
        for child in (self.left, self.right):
            if (child <= places)[~leaf].any() or (child >= nodes).any() or (child < 0).any():
                raise ValueError("a tree does not end")
        if ((self.feature < 0) | (self.feature >= columns)).any():
            raise ValueError("a tree reads a column that is not there")
        if (self.group < -1).any() or (self.group >= len(self.sets)).any():
            raise ValueError("a tree reads categories that are not there")
        if len(self.roots) % len(self.base) or ((self.roots < 0) | (self.roots >= nodes)).any():
            raise ValueError("a tree begins nowhere")

    def rounds(self, x: Numbers) -> Numbers:
        """What the sum is after each round: x (n, columns) -> (rounds + 1, n, outputs)."""
        steps = self.trees(x).reshape(-1, len(self.base), len(x)).transpose(0, 2, 1)
        start = np.broadcast_to(self.base, (1, len(x), len(self.base)))
        return np.concatenate([start, steps]).cumsum(0)

    def outputs(self, x: Numbers) -> Numbers:
        """The sum of all trees: x (n, columns) -> (n, outputs)."""
        found: Numbers = self.rounds(x)[-1]
        return found

    def trees(self, x: Numbers) -> Numbers:
        """What each tree gives: x (n, columns) -> (trees, n)."""
        step = max(1, BLOCK // max(1, len(self.roots)))
        parts = [self._trees(x[start : start + step]) for start in range(0, max(1, len(x)), step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)

    def _trees(self, x: Numbers) -> Numbers:
        place = np.repeat(self.roots[:, None], len(x), 1)
        rows = np.arange(len(x))[None]
        while True:
            given = x[rows, self.feature[place]]
            left = np.where(np.isnan(given), self.missing[place] == 1, given <= self.threshold[place])
            category = np.where(np.isnan(given), 0, given).clip(0, CATEGORIES + 1).astype(np.int64)
            group = self.group[place]
            listed = self.sets[group, category] == 1 if len(self.sets) else np.zeros_like(left)
            left = np.where((group >= 0) & ~np.isnan(given), listed, left)
            after = np.where(left, self.left[place], self.right[place])
            if (after == place).all():
                return self.value[place]
            place = after

    def first(self, rounds: int) -> Forest:
        """The same with the first rounds alone."""
        roots = self.roots[: rounds * len(self.base)]
        stop = self.roots[rounds * len(self.base)] if len(roots) < len(self.roots) else len(self.value)
        return Forest(
            self.value[:stop],
            self.feature[:stop],
            self.threshold[:stop],
            self.missing[:stop],
            self.left[:stop],
            self.right[:stop],
            self.group[:stop],
            self.sets,
            roots,
            self.base,
        )

    @property
    def numbers(self) -> int:
        """How many numbers describe it: a column, a threshold and a default for a split, a value for a leaf."""
        leaves = int((self.left == np.arange(len(self.left))).sum())
        return 3 * (len(self.value) - leaves) + leaves + len(self.base)


def joined(forests: Sequence[Forest]) -> Forest:
    """The sum of forests of one output each; of none, one that always says 0."""
    if not forests:
        none, zero = np.zeros(0), np.zeros(0, np.int64)
        sets = np.zeros((0, CATEGORIES + 2), np.uint8)
        return Forest(none, zero, none, np.zeros(0, np.uint8), zero, zero, zero, sets, zero, np.zeros(1))
    nodes = np.cumsum([0, *(len(one.value) for one in forests)])
    groups = np.cumsum([0, *(len(one.sets) for one in forests)])
    moved = [
        replace(
            one,
            left=one.left + start,
            right=one.right + start,
            roots=one.roots + start,
            group=np.where(one.group >= 0, one.group + first, -1),
        )
        for one, start, first in zip(forests, nodes[:-1], groups[:-1], strict=True)
    ]
    names = ("value", "feature", "threshold", "missing", "left", "right", "group", "sets", "roots")
    arrays = {name: np.concatenate([getattr(one, name) for one in moved]) for name in names}
    return Forest(**arrays, base=np.sum([one.base for one in forests], 0))


def forest_of(fitted: object) -> Forest:
    """The arrays of a fitted HistGradientBoosting model."""
    predictors: Sequence[Sequence[object]] = fitted._predictors  # type: ignore[attr-defined]
    base = np.asarray(fitted._baseline_prediction, dtype=np.float64).reshape(-1)  # type: ignore[attr-defined]
    parts: dict[str, list[NDArray[np.generic]]] = {}
    roots, start, groups = [], 0, 0
    sets: list[NDArray[np.uint8]] = []
    for trees in predictors:
        for tree in trees:
            nodes = tree.nodes  # type: ignore[attr-defined]
            bits: NDArray[np.uint32] = tree.raw_left_cat_bitsets  # type: ignore[attr-defined]
            own = np.arange(len(nodes)) + start
            leaf = nodes["is_leaf"] == 1
            listed = {
                "value": nodes["value"],
                "feature": np.where(leaf, 0, nodes["feature_idx"]),
                "threshold": np.where(leaf | (nodes["is_categorical"] == 1), 0.0, nodes["num_threshold"]),
                "missing": nodes["missing_go_to_left"],
                "left": np.where(leaf, own, nodes["left"].astype(np.int64) + start),
                "right": np.where(leaf, own, nodes["right"].astype(np.int64) + start),
                "group": np.where(nodes["is_categorical"] == 1, nodes["bitset_idx"].astype(np.int64) + groups, -1),
            }
            for name, array in listed.items():
                parts.setdefault(name, []).append(array)
            unpacked = np.unpackbits(bits.astype("<u4").view(np.uint8), bitorder="little").reshape(-1, 256)
            sets.append(unpacked[:, : CATEGORIES + 2])
            roots.append(start)
            start, groups = start + len(nodes), groups + len(unpacked)
    types = {"value": np.float64, "threshold": np.float64, "missing": np.uint8}
    joined = {name: np.concatenate(arrays).astype(types.get(name, np.int64)) for name, arrays in parts.items()}
    return Forest(**joined, sets=np.concatenate(sets), roots=np.array(roots, dtype=np.int64), base=base)
