"""What a few labelled rows of a task say of an encoder with modules on it: a loss, and a score where it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from allround.core.errors import AllroundError, suggestion
from allround.core.seeds import seed_of
from allround.models.batch import taken
from allround.models.encoder import Encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.untrained import needs_training
from allround.tasks.metric import better, score_of
from allround.tasks.prompt_text import prompt_of
from allround.tasks.task import Split, Task

#: Parts that held-out losses are taken over, at most.
FOLDS = 5
#: Rows whose loss is computed at once.
AT_ONCE = 8


class Judge(ABC):
    """Judges the encoder as it is at the moment."""

    @abstractmethod
    def loss(self) -> float:
        """Lower is better."""

    def score(self) -> float | None:
        """Higher is better; None where nothing answers the rows."""
        return None


class Probe(Judge):
    """By a linear head on features, fitted anew: the loss on rows that it was not fitted on."""

    def __init__(self, encoder: Encoder, task: Task, few: Split, asked: str) -> None:
        self.encoder, self.definition = encoder, task.definition
        self.folds, self.targets = folds_of(task, few, asked), np.asarray(few.targets)
        self.prepared = encoder.prepare(few.inputs, task.definition)

    @torch.inference_mode()
    def loss(self) -> float:
        made = features_of(self.encoder, self.prepared, self.definition).values.numpy()
        return held_out_loss(made, self.targets, self.folds)


class OwnWords(Judge):
    """By the words of a language model itself. loss: mean negative log-likelihood of the right answers, or of the
    worked reasons where such are given. score: of the answers, by the task's metric."""

    def __init__(self, encoder: LanguageModel, task: Task, few: Split, reasons: Sequence[str] = ()) -> None:
        self.few, self.name, self.definition = few, task.name, task.definition
        self.model = MultiTaskModel(encoder, {task.name: task.definition}).eval()
        self.prepared = self.model.prepare(task.name, few.inputs)
        told, targets = task.definition, few.targets
        if reasons:
            prompt = replace(prompt_of(told), choices=(), options="", extract="")
            told = replace(told, kind="text", metric="exact_match", labels=(), prompt=prompt, weights=(), head="")
            targets = [(reason,) for reason in reasons]
        self.told = MultiTaskModel(encoder, {task.name: told}).eval()
        self.targets = targets
        self.taught = self.told.prepare(task.name, few.inputs, targets)

    @torch.no_grad()
    def loss(self) -> float:
        total, count = 0.0, 0
        for start in range(0, len(self.few), AT_ONCE):
            numbers = list(range(start, min(start + AT_ONCE, len(self.few))))
            asked = {self.name: range(len(numbers))}
            batch = self.told.collate([self.taught[n] for n in numbers], asked,
                                      {self.name: taken(self.targets, numbers)})  # fmt: skip
            one = self.told.losses(batch)[self.name]
            total, count = total + float(one.sum), count + one.count
        return total / max(count, 1)

    @torch.inference_mode()
    def score(self) -> float | None:
        made = self.model.answer_prepared(self.name, self.prepared, scores=True)
        found = score_of(self.definition, self.few.targets, made.predictions, made.scores)
        return found if better(self.definition.metric) == "higher" else -found


def judge_of(encoder: Encoder, task: Task, few: Split, asked: str, reasons: str = "") -> Judge:
    """What judges an encoder by a few rows of a task.

    reasons: the column (of `slices`) with a worked answer to each row, for language models. Errors: kinds that nothing
    can judge; too few rows; reasons that are not there, or that nothing here can say.
    """
    speaks = isinstance(encoder, LanguageModel) and not needs_training(encoder, task.definition)
    if reasons and not speaks:
        raise AllroundError(asked, "worked answers are for language models that answer in their own words",
                            "leave --reasons out")  # fmt: skip
    if not speaks:
        return Probe(encoder, task, few, asked)
    assert isinstance(encoder, LanguageModel)
    if reasons and reasons not in few.slices:
        raise AllroundError(asked, f"the task keeps no column '{reasons}' (`slices`)",
                            suggestion(reasons, few.slices))  # fmt: skip
    worked = list(few.slices.get(reasons, ())) if reasons else []
    if not all(worked):
        raise AllroundError(asked, f"{sum(not one for one in worked)} of {len(worked)} rows have no '{reasons}'",
                            "give each row a worked answer")  # fmt: skip
    return OwnWords(encoder, task, few, [str(one) for one in worked])


def few_rows(task: Task, rows: int, seed: int) -> Split:
    """So many training rows of a task, drawn by the seed."""
    split = task.splits["train"]
    return split.take(np.random.default_rng(seed_of(seed, "choose", task.name)).permutation(len(split))[:rows].tolist())


def folds_of(task: Task, few: Split, asked: str) -> int:
    """In how many parts rows are held out. Errors: a kind that no head is fitted for here; too few rows of a label."""
    kind = task.definition.kind
    if kind not in ("classification", "regression"):
        raise AllroundError(asked, f"the task is of the kind {kind}", "give one of: classification, regression")
    targets = np.asarray(few.targets)
    folds = min(FOLDS, *np.unique(targets, return_counts=True)[1].tolist()) if kind == "classification" else FOLDS
    if len(few) < folds or folds < 2 or len(np.unique(targets)) < 2:
        raise AllroundError(asked, f"of the {len(few)} rows too few are of one label", "take more rows")
    return folds


def held_out_loss(features: NDArray[Any], targets: NDArray[Any], folds: int) -> float:
    """The loss of a linear head on rows that it was not fitted on."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if targets.dtype.kind == "f":
        parts = KFold(folds, shuffle=True, random_state=0)
        made = cross_val_predict(make_pipeline(StandardScaler(), Ridge(1.0)), features, targets, cv=parts)
        return float(np.mean((made - targets) ** 2) / np.var(targets))
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    made = cross_val_predict(model, features, targets, cv=parts, method="predict_proba")
    places = np.searchsorted(np.unique(targets), targets)
    return float(-np.log(np.clip(made[np.arange(len(made)), places], 1e-12, None)).mean())
