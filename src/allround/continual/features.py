"""What a model makes of rows, as a matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from allround.models.model import Model
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.values import Row


def row_features(model: Model, task: str, inputs: Sequence[Row]) -> NDArray[np.float64]:
    """(n, d): features of the rows of a task, in their order."""
    assert isinstance(model, MultiTaskModel)
    definition = model.definition(task)
    model.eval()
    with torch.inference_mode():
        found = features_of(model.encoder, model.prepare(task, inputs), definition)
    return found.values.double().cpu().numpy()
