"""Center loss: features of a label gather around one centre, which later trainings keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.core.registry import method
from allround.models.model import device_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.processes import Processes
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.batch import Batch, Features
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(
    source="center loss: Wen et al., ECCV 2016, equations 2 to 4; kept centres: Olpadkar and Gavas, arXiv:2110.11314, "
    "from the abstract",
    paper="Center Loss Regularization for Continual Learning",
)
class Center(Term):
    """Formula: weight * 1/2 * mean over rows of ||f - c_y||^2, f being the features of a row and c_y the centre of its
    label

    A label's centre follows its rows: with each step it moves by rate * sum of (f - c_y) / (1 + n) over its n rows of
    the step, from the first of them on. After a training with this object its centre is kept: in later ones new rows of
    the label are pulled to where the old ones were. hold_heads: heads all of whose labels have kept centres stay as
    they are, so that the borders between labels do.

    This holds old answers only where the same labels come again, on other rows. Tasks without one label for each row
    are trained as ever, and so is a model that was finished without this object: it has no centres.
    """

    reads_features: ClassVar[bool] = True

    def __init__(self, *, weight: float = 0.001, rate: float = 0.5, hold_heads: bool = False) -> None:
        super().__init__()
        self.weight, self.rate, self.hold_heads = weight, rate, hold_heads
        self._held: list[str] = []
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        centres, kept = self.state.setdefault("centres", {}), self.state.setdefault("kept", {})
        self._held, self._seen = [], {}
        for task in tasks:
            if task.definition.kind == "classification":
                name, labels = task.name, len(task.definition.labels)
                self._held += [name] if self.hold_heads and name in kept and int(kept[name].sum()) == labels else []
                old = centres.get(name, torch.zeros(0, model.width(name)))
                centres[name] = torch.cat([old, old.new_full((labels - len(old), old.shape[1]), torch.nan)])
                kept[name] = torch.cat([kept.get(name, torch.zeros(0)), torch.zeros(labels - len(old))])

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        centres = self.state["centres"].get(task)
        if centres is None or features is None:
            return None
        targets = batch.targets[task]
        values = features.take(targets.rows, batch.size).of(task).values
        hot = F.one_hot(targets.values, len(centres)).to(values)
        there = centres.to(values)[targets.values]
        known = there.isfinite().all(1)
        sums, counts = hot.T @ values.detach(), hot.sum(0)
        if task in self._seen:
            sums, counts = sums + self._seen[task][0], counts + self._seen[task][1]
        self._seen[task] = sums, counts
        gaps = (values - torch.where(known[:, None], there, 0.0)) * known[:, None]
        return 0.5 * self.weight * gaps.square().sum(1).mean()

    def edit(self, model: Model) -> None:
        processes = Processes(cpu=device_of(model).type == "cpu")
        for task, centres in self.state["centres"].items():
            empty = torch.zeros_like(centres), torch.zeros(len(centres))
            sums, counts = (processes.add(value.float().cpu()) for value in self._seen.get(task, empty))
            pull = self.rate * (sums - counts[:, None] * centres) / (1 + counts[:, None])
            moved = torch.where(centres.isfinite(), centres + pull, sums / counts[:, None])
            change = (counts > 0) & (self.state["kept"][task] == 0) & sums.isfinite().all(1)
            self.state["centres"][task] = torch.where(change[:, None], moved, centres)
        self._seen = {}
        for task in self._held:
            for parameter in model.of_head(task).values():
                parameter.grad = None

    def after(self, model: Model) -> None:
        self.state["kept"] = {task: one.isfinite().all(1).float() for task, one in self.state["centres"].items()}
