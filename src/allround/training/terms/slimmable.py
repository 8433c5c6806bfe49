"""slimmable: the first units of each layer are to serve alone, at several widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.batch import Batch, Features
from allround.models.encoder import Encoder
from allround.models.model import Model
from allround.models.shrinking.anatomy import Kept, put_in_order, sliced
from allround.models.shrinking.importance import Over
from allround.models.shrinking.study import study
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.widths import first_units
from allround.tasks.task import Task
from allround.training.term import Term


@method(
    source="widths at random, features held to those of the whole width: abstract of Aich et al., ICCV 2023, "
    "arXiv:2308.11744; widths of a network: Yu et al., ICLR 2019, arXiv:1812.08928"
)
class Slimmable(Term):
    """Adds, at each step, the losses of the tasks at a smaller width that is drawn for it, and the distance of its
    features from those of the whole width.

    Before the training the units of each layer (or channels of each convolution) are put in the order of what they are
    worth to the tasks, which changes no answer. A width is the share of them that is left, the first ones.
    widths: such as [0.75, 0.5, 0.25], of which each step draws one. features: strength of the distance. over: how the
    tasks' scores of a unit become one, as of the way `units` of `shrink`. `allround.models.widths.at_width` gives the
    model at a width.

    Formula: loss + loss at the width + features * mean (f_w - f)^2 / mean f^2, f fixed, and the last mean that of the
    first rows before training
    Differs: the heads of Aich et al. have several widths too; here a task has the same head at each. Yu et al. keep
    batch normalisation apart for each width; none is in these networks.
    """

    reads_features: ClassVar[bool] = True
    holds_weights: ClassVar[bool] = True

    def __init__(
        self, *, widths: tuple[float, ...] = (0.75, 0.5, 0.25), features: float = 1.0, over: Over = "max"
    ) -> None:
        super().__init__()
        self.widths = tuple(widths) if isinstance(widths, list | tuple) else (widths,)
        self.features, self.over = features, over
        if not self.widths or not all(isinstance(one, float) and 0 < one < 1 for one in self.widths):
            raise AllroundError("train at several widths", f"the widths are {list(self.widths)}",
                                "give shares between 0 and 1, such as [0.75, 0.5]")  # fmt: skip
        self._nets: dict[float, tuple[Kept, Encoder]] = {}
        self._square = 1.0
        self._last: tuple[Batch, Features] | None = None

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        encoder, training = model.encoder, model.training
        anatomy = encoder.anatomy(1.0)
        kept = {width: first_units(anatomy, width) for width in self.widths}
        seen = study(model, tasks)
        for group in anatomy.units():
            order = torch.argsort(seen.importance(group.name, self.over), descending=True, stable=True)
            put_in_order(encoder.backbone, group, order.tolist())
        self._nets = {width: (kept[width], encoder.smaller(kept[width]).requires_grad_(False)) for width in self.widths}
        self._square = self._mean_square(model, tasks)
        model.train(training)
        self.state.setdefault("steps", {}).setdefault("", torch.zeros((), dtype=torch.long))

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        assert isinstance(model, MultiTaskModel) and features is not None
        targets = batch.targets[task]
        if not targets.rows:
            return None
        if self._last is None or self._last[0] is not batch:
            self._last = batch, self._at_width(model.encoder, batch)
        narrow = self._last[1].take(targets.rows, batch.size).of(task)
        whole = features.take(targets.rows, batch.size).of(task).values.detach()
        gap = (narrow.values - whole).square().mean() / self._square
        return model.head(task).loss(narrow, targets.values).mean + self.features * gap

    def stepped(self, model: Model) -> None:
        self._last = None
        self.state["steps"][""] += 1

    def after(self, model: Model) -> None:
        self._nets, self._last, self.state = {}, None, {}

    @property
    def width(self) -> float:
        """The width of this step."""
        draw = np.random.default_rng(seed_of(0, "slimmable", int(self.state["steps"][""])))
        return self.widths[int(draw.integers(len(self.widths)))]

    def _at_width(self, encoder: Encoder, batch: Batch) -> Features:
        kept, net = self._nets[self.width]
        net.train(encoder.training)
        found: Features = functional_call(net, weights_at(encoder, kept), (batch,))
        return found

    @staticmethod
    @torch.no_grad()
    def _mean_square(model: MultiTaskModel, tasks: Sequence[Task]) -> float:
        model.eval()
        found = []
        for task in tasks:
            split = task.splits["train"].take(range(min(64, len(task.splits["train"]))))
            rows = model.prepare(task.name, split.inputs, split.targets)
            batch = model.encoder.batch(rows, model.definition(task.name)).to(model.device)
            found.append(model.encoder(batch).values.float().square().mean())
        return max(float(torch.stack(found).mean()), 1e-12)


def weights_at(encoder: Encoder, kept: Kept) -> dict[str, Tensor]:
    """The weights of an encoder with some of its units, by the names of the whole one's; gradients pass to these."""
    inside = {id(module): name for name, module in encoder.named_modules()}[id(encoder.backbone)]
    found: dict[str, Tensor] = dict(encoder.named_parameters())
    parts = sliced(encoder.backbone, encoder.anatomy(1.0).units(), kept)
    return {**found, **{f"{inside}.{name}" if inside else name: value for name, value in parts.items()}}
