"""teacher: rows are answered as a teacher answers them, in place of their labels or beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.checkpoints.fingerprint import fingerprint
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import hash_json
from allround.core.registry import method
from allround.models.likelihood import Likelihood
from allround.models.likelihoods.categorical import Categorical
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.teaching import Taught, check_teacher, teach
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.batch import Batch, Features
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(
    source="by outputs: Barkan et al., AAAI 2020, arXiv:1908.05161, dse_trainer.py of microsoft/"
    "Distilled-Sentence-Embedding; by probabilities: Hinton et al. 2015, arXiv:1503.02531",
    paper="Scalable Attentive Sentence-Pair Modeling via Distilled Sentence Embedding",
)
class Teacher(Term):
    """Adds to the loss of each task that a teacher knows the distance of the model's outputs from the teacher's.

    folder: of any saved system, or several with commas between: of those that know a task the mean is learned. The
    teacher reads rows in its own way, so a model that reads the texts of a pair apart can learn from one that reads
    them together. Its outputs are computed once for each training row, and kept with unfinished training.
    labels: factor on the loss by the rows' own targets. by: `outputs`, the squared distance of the head's numbers; or
    `probabilities`, for tasks with labels, at a temperature.

    Formula: labels * loss + weight * mean over rows of D; by outputs D = 1/2 (z - z')^2 for numbers, and
    sum_k ((z_k - mean z) - (z'_k - mean z'))^2 for labels; by probabilities D = T^2 KL(p'(z' / T) || p(z / T))
    Differs: DSE has one logit for two labels, and (z - z')^2 of it is twice the distance here; with more labels it
    takes logits as they are, which softmax does not. Its coefficient 0.5 is labels=0.5;weight=0.5 for numbers, and
    labels=0.5;weight=1 for two labels.

    >>> term, logits = Teacher(folder="folder"), torch.tensor([[0.0, 3.0]])
    >>> term.distance(logits, torch.tensor([[1.0, 2.0]]), Categorical()).item()  # -1 and 1 from the mean
    2.0
    """

    reads_features: ClassVar[bool] = True

    def __init__(
        self,
        *,
        folder: str,
        weight: float = 1.0,
        labels: float = 0.0,
        by: Literal["outputs", "probabilities"] = "outputs",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.folder, self.weight, self.labels, self.by, self.temperature = folder, weight, labels, by, temperature
        self._teachers: list[System] = []
        self._tasks: dict[str, Task] = {}
        self._made: dict[str, Taught] = {}
        #: Part of what tells unfinished training from others.
        self.content = hash_json([_content(Path(folder)) for folder in self.folders])

    @property
    def folders(self) -> list[str]:
        """The folders of the teachers."""
        return [folder.strip() for folder in self.folder.split(",")]

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        self._teachers = [load(folder) for folder in self.folders]
        known = {name for teacher in self._teachers for name in teacher.definitions}
        self._tasks = {task.name: task for task in tasks if task.name in known}
        if not self._tasks:
            raise AllroundError(
                f"learn from {self.folder}",
                f"it has none of the tasks in training; it has: {', '.join(sorted(known))}",
                "give a teacher of the same tasks, under the same names",
            )
        for name in self._tasks:
            model.output_head(name)  # an error for heads without outputs
            for teacher, folder in zip(self._teachers, self.folders, strict=True):
                if name in teacher.definitions:
                    check_teacher(teacher, model.definition(name), folder)

    def own_loss(self, task: str) -> float:
        return self.labels if task in self._tasks else 1.0

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        if task not in self._tasks or task not in batch.numbers:
            return None
        assert isinstance(model, MultiTaskModel) and features is not None
        head = model.output_head(task)
        outputs = head(features.take(batch.targets[task].rows, batch.size).of(task).values)
        taught = self._taught(model, task).take(batch.numbers[task]).to(outputs.device)
        return self.weight * self.distance(outputs, taught, head.likelihood)

    def distance(self, outputs: Tensor, taught: Tensor, likelihood: Likelihood) -> Tensor:
        """How far outputs are from the teacher's, the mean over rows. Shapes: (n, outputs) each -> ()."""
        outputs, heat = outputs.float(), self.temperature
        logs, wanted = likelihood.log_probabilities(outputs / heat), likelihood.log_probabilities(taught / heat)
        if logs is None or wanted is None:
            return 0.5 * F.mse_loss(outputs, taught)
        if self.by == "probabilities":
            return heat**2 * F.kl_div(logs, wanted, reduction="none", log_target=True).sum((1, 2)).mean()
        gap = outputs - taught
        if isinstance(likelihood, Categorical):
            gap = gap - gap.mean(1, keepdim=True)
        return gap.square().sum(1).mean()

    def _taught(self, model: MultiTaskModel, task: str) -> Taught:
        """What the teachers answer to the training rows of a task."""
        if task not in self._made:
            values, lengths = (self.state.setdefault(name, {}) for name in ("outputs", "lengths"))
            if task not in values:
                rows, definition = self._tasks[task].splits["train"].inputs, model.definition(task)
                known = [one.to(model.device) for one in self._teachers if task in one.definitions]
                found = [teach(one, definition, rows) for one in known]
                values[task] = torch.stack([one.values for one in found]).mean(0)
                lengths[task] = torch.tensor(found[0].lengths, dtype=torch.long)
            self._made[task] = Taught(values[task], tuple(lengths[task].tolist()))
        return self._made[task]

    def after(self, model: Model) -> None:
        self._teachers, self._tasks, self._made, self.state = [], {}, {}, {}


def _content(folder: Path) -> list[str]:
    """What tells the weights in a folder from others."""
    return [fingerprint(Weights(file)) for file in sorted(folder.rglob("*.safetensors"))]
