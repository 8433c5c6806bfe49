"""Unfinished training in a file, so that it can go on after a kill."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from allround.core.errors import AllroundError
from allround.core.files import atomic_file, hash_json
from allround.core.plugins import contents
from allround.core.reading import check_file
from allround.core.version import __version__
from allround.models.encoder import hash_tensors
from allround.models.model import Model
from allround.tasks.task import Task
from allround.training.course import CourseState
from allround.training.schedule import ScheduleState
from allround.training.settings import Settings
from allround.training.term import Term
from allround.training.validation import ValidationState

#: Seconds between two saves of unfinished training.
SAVE_EVERY = 30.0


class TrainingState(TypedDict):
    """All that a training needs to go on: what it was made from, where it is, and what its parts remember.

    balancers: by task and name; terms: by name and task. random, random_cuda: the states of the random generators.
    bad_in_a_row: for each task, steps in a row from which it was left out. weighed: by task, the sum of its weights
    since the last evaluation, and their number; lost: the same of its losses.
    """

    made_from: str
    precision: str
    course: CourseState
    schedule: ScheduleState
    validation: ValidationState
    bad_in_a_row: list[int]
    weighed: dict[str, list[float]]
    lost: dict[str, list[float]]
    weights: dict[str, Tensor]
    optimiser: dict[str, object]
    balancers: list[dict[str, dict[str, Tensor]]]
    terms: list[dict[str, dict[str, Tensor]]]
    policy: dict[str, Tensor]
    random: Tensor
    random_cuda: list[Tensor]


class UnfinishedTraining:
    """The file of one unfinished training. made_from: the hash that tells this training from others."""

    def __init__(self, path: Path, made_from: str) -> None:
        self.path, self.made_from = path, made_from
        self.saved = time.perf_counter()

    def is_due(self) -> bool:
        """Whether the last save was long enough ago."""
        return time.perf_counter() - self.saved > SAVE_EVERY

    def write(self, state: TrainingState) -> None:
        """Replace the file at once."""
        with atomic_file(self.path) as temporary:
            torch.save(state, temporary)
        self.postpone()

    def postpone(self) -> None:
        """Count the time to the next save from now."""
        self.saved = time.perf_counter()

    def read(self) -> TrainingState | None:
        """What the file holds; None if there is no file. Errors: a file that is damaged or of another training."""
        if not self.path.is_file():
            return None
        asked = f"go on with the training in {self.path}"
        check_file(self.path, asked=asked)
        try:
            state: TrainingState = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, LookupError, ValueError, pickle.UnpicklingError) as error:
            raise AllroundError(
                asked, f"the file is damaged: {type(error).__name__}: {error}", "remove it to begin anew"
            ) from error
        if not isinstance(state, dict) or state.get("made_from") != self.made_from:
            raise AllroundError(
                asked,
                "it was begun with other settings, tasks or seed, from another base or heads, or by another version",
                "give the same ones, or remove the file to begin anew",
            )
        return state

    def remove(self) -> None:
        """Remove the file, and what a save that was killed has left."""
        self.path.unlink(missing_ok=True)
        for left in self.path.parent.glob(f".{self.path.name}.*"):
            left.unlink()


def hash_training(model: Model, tasks: Sequence[Task], settings: Settings, seed: int, terms: Sequence[Term]) -> str:
    """What tells this training from others; the device and the number of processes may change on the way."""
    values = {name: value for name, value in settings.to_json().items() if name != "device"}
    made_from = [__version__, values, seed, [t.content for t in tasks], hash_tensors(model), model.preparation]
    made_from += [[type(t).__qualname__, _plain(vars(t))] for t in terms]
    used = contents(made_from)
    return hash_json([*made_from, used] if used else made_from)


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    """The plain ones of a term's attributes: its parameters."""
    return {n: v for n, v in values.items() if isinstance(v, bool | int | float | str)}
