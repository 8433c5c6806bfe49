"""How many of a task's texts are longer than an encoder reads."""

from __future__ import annotations

import numpy as np

from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.tasks.checks.finding import Finding
from allround.tasks.task import Task

#: The code of what is found.
LONG_TEXTS = "long_texts"
#: Training rows that are looked at.
ROWS = 1000
#: It is worth saying from this part of them on.
WORTH = 0.01


def check_lengths(encoder: Encoder, task: Task) -> list[Finding]:
    """Whether the encoder reads some texts only in part, by a sample of the training rows."""
    if task.definition.modality not in encoder.modalities:
        return []
    rows = task.splits["train"].inputs
    order = np.random.default_rng(seed_of(0, "lengths")).permutation(len(rows))[:ROWS]
    cut = encoder.cut([rows[i] for i in order], task.definition)
    if cut < WORTH * len(order):
        return []
    most = f" of {encoder.max_length} tokens" if hasattr(encoder, "max_length") else ""
    words = f"{100 * cut / len(order):.2g}% of the train texts are longer than the base reads{most}"
    return [Finding(LONG_TEXTS, words, "their ends are not read; a base may take more by `--max-length`")]
