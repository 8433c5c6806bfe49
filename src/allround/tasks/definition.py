"""What is asked of a model in one task, without the data: enough to encode, predict and score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.schema import STRICT, fitted
from allround.tasks.column_types import ColumnType
from allround.tasks.contrast import Contrast
from allround.tasks.instructions import check_instructions
from allround.tasks.prompt import Prompt
from allround.tasks.roles import ROLES, TRAIN

#: What definitions did not have at first; one without them is written as it was before there were any.
_LATER = ("columns", "weights", "focal", "prompt", "head", "category", "harness", "contrast", "agree", "rewordings")


@dataclass(frozen=True)
class Definition:
    """One task's question.

    `inputs` are column names: two of them make a pair. `labels` are in the order of the model's outputs (token
    classification: tags). `center` and `scale` standardise a regression target. `metric` names the score.
    `columns` says how each column of a table was understood; tasks that earlier versions made have none. `weights` of
    labels and the exponent `focal` are those of the training loss (`allround.tasks.imbalance`); no score knows them.
    `prompt` is how the task is put to a language model. `head` is the sort of head that answers it, where one was asked
    for; else the base chooses. `role` is the part that the task plays in training, one of `allround.tasks.roles.ROLES`.
    `category` groups tasks in reports. `harness` is the task of the lm-evaluation-harness that it is, as JSON.
    `contrast` is how the head `ranking` compares vectors and learns; None for its defaults.
    `agree` is the loss by which the head `similarity` trains, such as `cosent`, where one was asked for.
    `instruction` stands before inputs. `rewordings` say the same in other words: a training row has the instruction or
    one of these before it, all other rows have the instruction.
    """

    __pydantic_config__ = STRICT

    name: str
    kind: str
    inputs: tuple[str, ...]
    modality: str
    metric: str
    labels: tuple[str, ...] = ()
    center: float = 0.0
    scale: float = 1.0
    instruction: str | None = None
    columns: tuple[ColumnType, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    focal: float = 0.0
    prompt: Prompt | None = None
    head: str = ""
    role: str = TRAIN
    category: str = ""
    harness: str = ""
    contrast: Contrast | None = None
    agree: str = ""
    rewordings: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether training may see it: it is neither held out nor a guard."""
        return self.role == TRAIN

    @property
    def pair(self) -> bool:
        """Whether the two inputs of each row make a pair."""
        two = len(self.inputs) == 2 and not registry.stateless("kind", self.kind).ranked
        return two and bool(registry.stateless("modality", self.modality).pairs)

    def with_facts(self, facts: Mapping[str, Any]) -> Definition:
        """The same task with what its kind learned from the training targets."""
        return replace(self, **facts)

    def to_json(self) -> dict[str, object]:
        found = {**asdict(self), "inputs": list(self.inputs), "labels": list(self.labels)}
        found["columns"] = [{**column, "categories": list(column["categories"])} for column in found["columns"]]
        found["weights"] = [list(row) for row in self.weights]
        found["rewordings"] = list(self.rewordings)
        found["prompt"] = self.prompt.to_json() if self.prompt is not None else None
        if self.trained:  # as all tasks were before there were others
            del found["role"]
        return {name: value for name, value in found.items() if value or name not in _LATER}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Definition:
        """The inverse of `to_json`; a ValueError in words for what cannot be one."""
        made = fitted(cls, value)
        for name, known in (("kind", registry.names("kind")), ("modality", registry.names("modality"))):
            if getattr(made, name) not in known:
                raise ValueError(f"{name} {getattr(made, name)!r} is not one of {', '.join(known)}")
        if made.role not in ROLES:
            raise ValueError(f"role {made.role!r} is not one of {', '.join(ROLES)}")
        if not made.inputs:
            raise ValueError("inputs names nothing")
        for name in ("inputs", "labels"):
            if len(set(getattr(made, name))) < len(getattr(made, name)):
                raise ValueError(f"{name} names something twice")
        rules = registry.load("kind", made.kind)()
        if not made.labels and rules.labelled:
            raise ValueError("labels names nothing")
        if made.columns and len(made.columns) != len(made.inputs):
            raise ValueError("columns does not describe each of the inputs")
        outcomes = sum(len(row) for row in made.weights)
        if outcomes not in (0, len(made.labels), 2 * len(made.labels)) or min((0.0, *chain(*made.weights))) < 0:
            raise ValueError("weights does not have one weight for each label")
        if not 0 <= made.focal <= 10:
            raise ValueError("focal is not between 0 and 10")
        if made.scale <= 0:
            raise ValueError("scale is not above 0")
        if made.prompt is not None and (wrong := made.prompt.problem(made.inputs)):
            raise ValueError(wrong[0])
        if made.prompt is not None and len(made.prompt.choices) not in (0, len(made.labels)):
            raise ValueError("prompt does not have one choice for each label")
        if rules.own_choices and (made.prompt is None or not made.prompt.options):
            raise ValueError("prompt names no column of choices")
        if rules.ranked and len(made.inputs) != 2:
            raise ValueError("inputs are not a query and its passages")
        if made.contrast is not None and (wrong := made.contrast.problem()):
            raise ValueError(wrong[0])
        if made.rewordings:
            check_instructions((made.instruction or "", *made.rewordings))
        if made.head and made.head not in registry.names("head"):
            raise ValueError(f"head {made.head!r} is not one of {', '.join(registry.names('head'))}")
        if made.agree:
            try:
                registry.spelled("agree", made.agree)
            except AllroundError as error:
                raise ValueError(f"agree {made.agree!r}: {error.found}") from error
        return made
