"""Which rows of the feeds are drawn, where a sampling policy chooses them by their features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allround.models.batch import per_row
from allround.models.model import Model, Prepared, device_of
from allround.models.running import by_length
from allround.tasks.task import Task
from allround.training.feeds import Feed
from allround.training.sampling import Policy


def choose_rows(policy: Policy, feeds: Sequence[Feed], model: Model, tasks: Sequence[Task]) -> None:
    """Let the policy choose the rows of each feed; it may leave all of them."""
    chosen = policy.select([mean_features(model, tasks[feed.tasks[0]].name, feed.rows) for feed in feeds])
    for feed, rows in zip(feeds, chosen or [feed.use for feed in feeds], strict=True):
        feed.use = rows


@torch.inference_mode()
def mean_features(model: Model, task: str, rows: Sequence[Prepared]) -> Tensor:
    """One vector for each row on the CPU: its features, or the mean over its words. Shape: (rows, d)"""
    model.eval()
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for numbers in by_length([model.size(row) for row in rows], 64):
        batch = model.collate([rows[n] for n in numbers], {task: range(len(numbers))}).to(device_of(model))
        features = model.features(batch)
        values = features.values.float().cpu()
        if features.lengths:
            words = per_row(values, features.lengths)
            values = torch.stack([w.mean(0) if len(w) else values.new_zeros(values.shape[1]) for w in words])
        for number, value in zip(numbers, values, strict=True):
            found[number] = value
    return torch.stack(found)
