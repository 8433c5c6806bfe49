"""What is known of transfer between tasks: a value for each pair of a source and a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from allround.core.errors import AllroundError, suggestion

if TYPE_CHECKING:
    from pandas import DataFrame

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TaskMatrix:
    """Transfer from each of S sources to each of T targets, estimated or measured.

    values: (S, T), float64; NaN where it is not known, such as from a task to itself. errors: their standard errors,
    (S, T), NaN where not known; None for none at all. seconds: what it took. symmetric: whether sources and targets are
    the same tasks, and the value is the same in both directions. seeds: of the runs that were averaged.

    Errors: shapes that do not match the names, a name that stands twice, infinite values, errors below zero, and a
    matrix that is said to be symmetric and is not.

    >>> found = TaskMatrix("sizes", ("a", "b"), ("a", "b"), [[float("nan"), 2.0], [1.0, float("nan")]])
    >>> found.value("a", "b"), found.best("a")
    (2.0, ['b'])
    """

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Values
    errors: Values | None = None
    kind: Literal["estimate", "measured"] = "estimate"
    higher_is_better: bool = True
    symmetric: bool = False
    seconds: float = 0.0
    seeds: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        asked = f"make the matrix of transfer '{self.name}'"
        for what in ("sources", "targets"):
            object.__setattr__(self, what, tuple(getattr(self, what)))
            names = getattr(self, what)
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise AllroundError(asked, f"{what} names '{twice}' twice", "name each task once")
        for what in ("values", "errors"):
            given = getattr(self, what)
            if given is None:
                continue
            found = np.array(given, dtype=np.float64)
            shape = (len(self.sources), len(self.targets))
            if found.shape != shape:
                raise AllroundError(
                    asked,
                    f"{what} have the shape {found.shape}, with {shape[0]} sources and {shape[1]} targets",
                    "give one row for each source and one column for each target",
                )
            if np.isinf(found).any() or (what == "errors" and (found < 0).any()):
                wrong = "infinite" if np.isinf(found).any() else "below zero"
                raise AllroundError(asked, f"{what} hold a number that is {wrong}", "give NaN where a value is unknown")
            found.setflags(write=False)
            object.__setattr__(self, what, found)
        if self.kind not in ("estimate", "measured"):
            raise AllroundError(asked, f"its kind is '{self.kind}'", suggestion(self.kind, ("estimate", "measured")))
        if self.symmetric and not (
            self.sources == self.targets and np.allclose(self.values, self.values.T, 1e-6, 1e-9, equal_nan=True)
        ):
            raise AllroundError(
                asked,
                "it is said to be symmetric, and differs between the two directions",
                "leave symmetric out, or give the same tasks and values in both directions",
            )

    @classmethod
    def of_pairs(cls, name: str, pairs: Mapping[tuple[str, str], float], **about: object) -> TaskMatrix:
        """A matrix from values of (source, target), in the order in which tasks come first; other pairs are unknown.

        >>> TaskMatrix.of_pairs("gain", {("a", "c"): 1.0, ("b", "c"): 2.0}).values.tolist()
        [[1.0], [2.0]]
        """
        sources, targets = (list(dict.fromkeys(pair[place] for pair in pairs)) for place in (0, 1))
        values = np.full((len(sources), len(targets)), np.nan)
        for (source, target), value in pairs.items():
            values[sources.index(source), targets.index(target)] = value
        return cls(name, tuple(sources), tuple(targets), values, **about)  # type: ignore[arg-type]

    @property
    def gains(self) -> Values:
        """The values, with their signs changed where lower is better: higher is better in any case."""
        return self.values if self.higher_is_better else -self.values

    def value(self, source: str, target: str) -> float:
        """The value of one pair; NaN where it is not known. Errors: a task that the matrix does not have."""
        return float(self.values[self._place("sources", source), self._place("targets", target)])

    def best(self, target: str, count: int | None = None) -> list[str]:
        """The sources of a target whose value is known, the best first; equal ones in the matrix's order.

        count: at most so many; all where it is None. Errors: a target that the matrix does not have.
        """
        column = self.gains[:, self._place("targets", target)]
        order = [row for row in np.argsort(-column, kind="stable").tolist() if not np.isnan(column[row])]
        return [self.sources[row] for row in order[:count]]

    def take(self, sources: Sequence[str] | None = None, targets: Sequence[str] | None = None) -> TaskMatrix:
        """Some sources and targets, in this order. Errors: a task that the matrix does not have."""
        rows = [self._place("sources", name) for name in (self.sources if sources is None else sources)]
        columns = [self._place("targets", name) for name in (self.targets if targets is None else targets)]
        return replace(
            self,
            sources=tuple(self.sources[row] for row in rows),
            targets=tuple(self.targets[column] for column in columns),
            values=self.values[np.ix_(rows, columns)],
            errors=None if self.errors is None else self.errors[np.ix_(rows, columns)],
            symmetric=self.symmetric and rows == columns,
        )

    def without(self, target: str) -> TaskMatrix:
        """The matrix without what is known of transfer to one target; the target stays as a source."""
        return self.take(targets=[name for name in self.targets if name != target])

    def mapped(self, change: Callable[[Values], Values], name: str | None = None) -> TaskMatrix:
        """The matrix with other values, without standard errors."""
        return replace(self, values=change(self.values), errors=None, name=name or self.name)

    def to_frame(self) -> DataFrame:
        """The values as a table of pandas: a row for each source, a column for each target."""
        import pandas

        return pandas.DataFrame(
            self.values,
            index=pandas.Index(self.sources, name="source"),
            columns=pandas.Index(self.targets, name="target"),
        )

    def _place(self, what: str, name: str) -> int:
        names = getattr(self, what)
        if name not in names:
            raise AllroundError(
                f"look '{name}' up in the matrix of transfer '{self.name}'",
                f"it is none of its {len(names)} {what}",
                suggestion(name, names),
            )
        place: int = names.index(name)
        return place


def same_tasks(matrices: Sequence[TaskMatrix], asked: str) -> None:
    """An error unless matrices have the same sources and targets, in the same order."""
    if not matrices:
        raise AllroundError(asked, "there is no matrix of transfer", "give at least one")
    first = matrices[0]
    for other in matrices[1:]:
        if (other.sources, other.targets) != (first.sources, first.targets):
            raise AllroundError(
                asked,
                f"'{other.name}' has other sources or targets than '{first.name}'",
                "take the same tasks of both, in the same order: TaskMatrix.take",
            )
