"""What measures may look at of a model that is at hand: its answers, and further ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from allround.evaluation.measuring import MeasureView
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.models.fitting import fit_head
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.tasks.task import Task


def view_of(
    model: System,
    suite: Suite,
    split: str,
    made: Mapping[tuple[str, str], Predictions],
    prompts: Mapping[str, Sequence[Predictions]],
) -> MeasureView:
    """The view of a model on a split. made: its predictions, by ("model", task); prompts: with several prompts."""
    own = {name: task.as_defined(model.definition(name)) for name, task in suite.tasks.items()}
    fit = None
    if isinstance(model, MultiTaskModel) and "texts" not in model.encoder.gives:
        fit = partial(_fitted, model, split)
    return MeasureView({name: made["model", name] for name in own}, prompts, own, split,
                       partial(predict_split, model, split=split), fit)  # fmt: skip


def _fitted(model: MultiTaskModel, split: str, task: Task) -> Predictions:
    """The answers of a head that is fitted on the training rows of a task, on the encoder as it is."""
    headed = MultiTaskModel(model.encoder, {})
    headed.add_task(task.definition, fit_head(model.encoder, task).state)
    return predict_split(headed.to(model.device).eval(), task, split)
