"""R-MTGB: boosted trees that tasks share, but for those of them that are outliers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.schema import STRICT, fitted
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.forest import Forest
from allround.models.robust_boosting import RobustTrees, sigmoid
from allround.models.system import System, check_rows, windows
from allround.models.table_columns import Column, order_of
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.values import Row

#: The file of the trees.
FILE = "trees.safetensors"
#: Parts that all tasks share.
PARTS = ("shared", "outlier", "other")


@method(
    source="after the paper and not its code: every tree may have more than two leaves, theta has its penalty and is "
    "found again by the task's name, and validation ends each part",
    paper="Robust-Multi-Task Gradient Boosting",
)
class Rmtgb(System):
    """Trees for all tasks, two ensembles that each task weighs by sigmoid(theta) and 1 - sigmoid(theta), then trees of
    each task's own.

    Differs: a step of theta is its gradient divided by the curvature; leaves of tasks with labels are Newton steps; the
    trees of all tasks' own parts have the same number of rounds. Made by `allround.models.robust_boosting.fit_robust`.
    """

    sort = "rmtgb"

    def __init__(self, trees: RobustTrees) -> None:
        self.trees = trees
        self.definitions = dict(trees.definitions)
        self.facts: dict[str, object] = {}

    @property
    def outliers(self) -> list[str]:
        """The tasks that were found to be outliers."""
        return self.trees.outliers()

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        definition = self.definition(task)
        for some in windows(rows, 1024):
            check_rows(definition, some)
            made = self.finished(task, self._answer(task, some), scores)
            yield made if scores else Answers(made.predictions, made.confidence)

    def _answer(self, task: str, rows: Sequence[Row]) -> Answers:
        outputs = self.trees.outputs(task, rows)
        rules = kind(self.definitions[task].kind)
        if rules.numeric:
            return Answers(outputs)
        second = sigmoid(outputs)
        scores = np.stack([1 - second, second], 1)
        return Answers(*rules.decide(scores), scores)

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        """A parameter is a number that the trees keep, or a task's theta."""
        shared = sum(getattr(self.trees, part).numbers for part in PARTS)
        names = list(self.definitions if tasks is None else tasks)
        own = [1 + (one.numbers if (one := self.trees.own[name]) is not None else 0) for name in names]
        return Cost(parameters_stored=shared + sum(own), parameters_used=shared + max(own, default=0))

    def write(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        made = self.trees
        forests = {part: getattr(made, part) for part in PARTS}
        forests |= {f"own.{name}": own for name, own in made.own.items() if own is not None}
        tensors = {
            f"{name}.{part.name}": np.ascontiguousarray(getattr(forest, part.name))
            for name, forest in forests.items()
            for part in fields(Forest)
        }
        save_file(tensors, folder / FILE)
        about = {
            "columns": [asdict(column) for column in made.columns],
            "tasks": {
                name: {"theta": made.theta[name], "center": made.center[name], "scale": made.scale[name],
                       "own": made.own[name] is not None}
                for name in self.definitions
            },
        }  # fmt: skip
        self.write_manifest(folder, robust_trees=about)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Rmtgb:
        weights = Weights(folder / FILE)
        try:
            about = fitted(_About, facts["robust_trees"])
            if set(about.tasks) != set(definitions):
                raise ValueError("it does not list all tasks")
            columns = tuple(Column(column.sort, tuple(column.categories)) for column in about.columns)
            order = order_of(columns)
            if any(len(columns) != len(definition.inputs) for definition in definitions.values()):
                raise ValueError("it does not list the columns")
            shared, outlier, other = (_forest(weights, part, len(order)) for part in PARTS)
            own = {n: _forest(weights, f"own.{n}", len(order)) if one.own else None for n, one in about.tasks.items()}
            theta, center, scale = (
                {name: float(getattr(one, part)) for name, one in about.tasks.items()}
                for part in ("theta", "center", "scale")
            )
            if not np.isfinite([*theta.values(), *center.values(), *scale.values()]).all():
                raise ValueError("a number is not finite")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise AllroundError(
                f"load the trees in {folder}", f"they are damaged: {error}", "copy the folder again, whole"
            ) from error
        made = cls(RobustTrees(dict(definitions), columns, order, shared, outlier, other, own, theta, center, scale))
        made.facts = {name: value for name, value in facts.items() if name != "robust_trees"}
        return made


@dataclass(frozen=True)
class _AboutTask:
    """What the manifest says of a task."""

    __pydantic_config__ = STRICT

    theta: float
    center: float
    scale: float
    own: bool


@dataclass(frozen=True)
class _About:
    """What the manifest says of the trees."""

    __pydantic_config__ = STRICT

    columns: list[Column]
    tasks: dict[str, _AboutTask]


def _forest(weights: Weights, name: str, columns: int) -> Forest:
    made = Forest(**{part.name: weights.get(f"{name}.{part.name}").numpy() for part in fields(Forest)})
    made.check(columns)
    if len(made.base) != 1:
        raise ValueError(f"'{name}' has several outputs")
    return made
