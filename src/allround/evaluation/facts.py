"""What pages say beside scores: facts of the data, of what was tried, and of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from typing_extensions import TypedDict

from allround.core.schema import STRICT
from allround.evaluation.errors import TaskErrors
from allround.evaluation.prompt_scores import PromptScores
from allround.evaluation.routing import RoutingFacts
from allround.evaluation.sharing import SharingFacts


class FoundFacts(TypedDict, total=False):
    """What the data check found. code: what sort of thing; words; do: what may be done about it, or nothing."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    code: str
    words: str
    do: str


class TaskFacts(TypedDict, total=False):
    """A task's data. train, validation, test: rows. labels: how many. findings: of the data check, if it was made."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    name: str
    kind: str
    metric: str
    inputs: list[str]
    labels: int | None
    train: int | None
    validation: int | None
    test: int | None
    notes: list[str]
    findings: list[FoundFacts]


class MachineFacts(TypedDict, total=False):
    """The machine, the day, and the version of each package."""

    machine: str
    date: str
    versions: Mapping[str, str]


class TriedSetting(TypedDict, total=False):
    """A setting of a method that was tried on validation rows. validation: mean retention there."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    method: str
    settings: Mapping[str, object] | str | None
    validation: float | None
    chosen: bool


@dataclass(frozen=True)
class TrainedFacts:
    """What a training read of a task. tokens: about how many, of prompts and answers. seconds: of the whole training,
    whatever its tasks."""

    __pydantic_config__ = STRICT

    system: str
    rows: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class PromptFacts:
    """How a language model reads a task.

    text, answer, chat, tokens, cut: of one row, see `ReadPrompt`. rows: that were read, of all splits; cut_rows: those
    with an input that was cut. mean, longest: tokens of their prompts. answer_tokens: mean of the right answers.
    """

    __pydantic_config__ = STRICT

    task: str
    text: str
    answer: str
    chat: bool
    tokens: int
    cut: bool
    rows: int
    cut_rows: int
    mean: float
    longest: int
    answer_tokens: float
    trained: tuple[TrainedFacts, ...]


class ReportFacts(MachineFacts, total=False):
    """All that a report may say beside the scoreboard.

    commands, python: how to use the saved model. choices: what was tried on validation rows. precision: of matrix
    products in training. size: how that of the base was chosen. seconds_total: of the whole run. peak_memory: bytes.
    errors: of the best system, by task. prompts: as a language model read them. prompt_scores: of tasks with several.
    sharing: of joint models that share by a plan. routing: of routed systems.
    """

    title: str
    commands: str | None
    python: str | None
    choices: Sequence[TriedSetting]
    tasks: Sequence[TaskFacts]
    budget: str | None
    precision: str | None
    size: str
    seconds_total: float
    peak_memory: int
    errors: Mapping[str, TaskErrors]
    prompts: Sequence[PromptFacts]
    prompt_scores: Sequence[PromptScores]
    sharing: Sequence[SharingFacts]
    routing: Sequence[RoutingFacts]
