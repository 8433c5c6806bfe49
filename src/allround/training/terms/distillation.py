"""distillation: a model learns what other models answer for the rows of its tasks, and their features."""

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
from allround.models.head import OutputHead
from allround.models.likelihood import Likelihood
from allround.models.likelihoods.categorical import Categorical
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.training.teacher_rows import TeacherRows, read_teacher_rows
from allround.training.teaching import Taught, check_teacher, teach, teach_features
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.batch import Batch, Features
    from allround.models.model import Model
    from allround.tasks.task import Task


@method(
    source="by outputs: Barkan et al., AAAI 2020, arXiv:1908.05161, dse_trainer.py of microsoft/"
    "Distilled-Sentence-Embedding; by probabilities: Hinton et al. 2015, arXiv:1503.02531; teacher annealing: loss of "
    "ltp/multitask_distill.py of HIT-SCIR/ltp, and Clark et al., ACL 2019, arXiv:1907.04829, equation 2",
    paper=(
        "Scalable Attentive Sentence-Pair Modeling via Distilled Sentence Embedding",
        "N-LTP: An Open-source Neural Language Technology Platform for Chinese",
    ),
)
class Distillation(Term):
    """The loss of each task that a teacher knows is mixed with the distance of the outputs from the teacher's. Features
    can be held near the teacher's, and the heads of other tasks to what the teacher's heads say of the row.

    teacher: the folder of any saved system, or several with commas between: of those that know a task the mean is
    learned. A teacher reads rows in its own way, so a model that reads the texts of a pair apart can learn from one
    that reads them together. It answers each training row once; the outputs are kept with unfinished training.
    answers: how much of the loss is the distance, the rest being the loss by the rows' own targets. anneal: it falls to
    nothing in the course of the training. by: `outputs`, the squared distance of the heads' numbers; or
    `probabilities`, at a temperature. features, others: strength of these two parts, for which the first teacher must
    be a model with heads and features of the same length. taught: a folder in which `write_teacher_rows` keeps what
    the teachers give.

    Formula: (1 - w) loss + w D(z, z') + features * mean (f - f')^2 / mean f'^2 + others * mean over heads of D, with
    w = answers * (1 - progress) if annealed. D is the mean over rows of 1/2 (z - z')^2 for numbers; for labels by
    outputs sum_k ((z_k - mean z) - (z'_k - mean z'))^2, by probabilities T^2 KL(p'(z' / T) || p(z / T))
    Differs: DSE has one logit for two labels, and (z - z')^2 of it is twice the distance here; with more labels it
    takes logits as they are, which softmax does not. Its coefficient 0.5 is answers=0.5 for numbers, and
    answers=0.667 for two labels. N-LTP anneals without the factor T^2 and with a temperature that depends on the
    token. Neither has features and the heads of other tasks.

    >>> term, logits = Distillation(teacher="folder"), torch.tensor([[0.0, 3.0]])
    >>> term.distance(logits, torch.tensor([[1.0, 2.0]]), Categorical()).item()  # -1 and 1 from the mean
    2.0
    """

    reads_features: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: str,
        answers: float = 1.0,
        anneal: bool = False,
        by: Literal["outputs", "probabilities"] = "outputs",
        temperature: float = 2.0,
        features: float = 0.0,
        others: float = 0.0,
        taught: str = "",
    ) -> None:
        super().__init__()
        self.teacher, self.taught = teacher, taught
        self.answers, self.anneal, self.by, self.temperature = answers, anneal, by, temperature
        self.features, self.others = features, others
        self.progress = 0.0
        self._teachers: list[System] = []
        self._tasks: dict[str, Task] = {}
        self._made: dict[str, TeacherRows] = {}
        #: Part of what tells unfinished training from others.
        self.content = hash_json([_content(Path(folder)) for folder in self.folders])

    @property
    def folders(self) -> list[str]:
        """The folders of the teachers."""
        return [folder.strip() for folder in self.teacher.split(",")]

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        assert isinstance(model, MultiTaskModel)
        self._teachers = [load(folder).to(model.device) for folder in self.folders]
        known = {name for teacher in self._teachers for name in teacher.definitions}
        self._tasks = {task.name: task for task in tasks if task.name in known}
        if not self._tasks:
            raise AllroundError(
                f"learn from {self.teacher}",
                f"it has none of the tasks in training; it has: {', '.join(sorted(known))}",
                "give a teacher of the same tasks, under the same names",
            )
        for name in self._tasks:
            model.output_head(name)  # an error for heads without outputs
            for teacher, folder in zip(self._teachers, self.folders, strict=True):
                if name in teacher.definitions:
                    check_teacher(teacher, model.definition(name), folder)
        if self._looks_at_features:
            self._check_features(model)
        self._made = read_teacher_rows(Path(self.taught), list(self._tasks.values())) if self.taught else {}

    def progressed(self, share: float) -> None:
        self.progress = share

    def own_loss(self, task: str) -> float:
        return 1 - self._share if task in self._tasks else 1.0

    def task_loss(self, model: Model, task: str, batch: Batch, features: Features | None) -> Tensor | None:
        if task not in self._tasks or task not in batch.numbers:
            return None
        assert isinstance(model, MultiTaskModel) and features is not None
        rows, numbers, head = self._rows(model, task), batch.numbers[task], model.output_head(task)
        found = features.take(batch.targets[task].rows, batch.size).of(task)
        loss = found.values.new_zeros(())
        if self._share:
            taught = rows.outputs.take(numbers).to(found.values.device)
            loss = loss + self._share * self.distance(head(found.values), taught, head.likelihood)
        if rows.features is None or not self._looks_at_features:
            return loss
        old = rows.features.take(numbers).to(found.values.device)
        if self.features and old.shape == found.values.shape:
            loss = loss + self.features * (found.values - old).square().mean() / rows.square
        if self.others and not found.lengths and not features.tasks:
            alike = [n for n in model.definitions if n not in batch.rows and self._reads(model, n, old.shape[1])]
            gaps = [self._other_distance(model, name, found, old) for name in alike]
            loss = loss + self.others * torch.stack(gaps).mean() if gaps else loss
        return loss

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

    def after(self, model: Model) -> None:
        self._teachers, self._tasks, self._made, self.state = [], {}, {}, {}

    @property
    def _share(self) -> float:
        """How much of the loss is now the distance from the teacher's answers."""
        return self.answers * (1 - self.progress if self.anneal else 1.0)

    @property
    def _looks_at_features(self) -> bool:
        return bool(self.features or self.others)

    def _rows(self, model: MultiTaskModel, task: str) -> TeacherRows:
        """What the teachers give for the training rows of a task."""
        if task not in self._made:
            values, lengths = (self.state.setdefault(name, {}) for name in ("outputs", "lengths"))
            split, features = self._tasks[task].splits["train"], None
            if self._looks_at_features and task in self._first.definitions:
                features = teach_features(self._first, task, split)
            if task not in values:
                definition = model.definition(task)
                found = [teach(one, definition, split.inputs, features if one is self._teachers[0] else None)
                         for one in self._teachers if task in one.definitions]  # fmt: skip
                values[task] = torch.stack([one.values for one in found]).mean(0)
                lengths[task] = torch.tensor(found[0].lengths, dtype=torch.long)
            self._made[task] = TeacherRows(Taught(values[task], tuple(lengths[task].tolist())), features)
        return self._made[task]

    @property
    def _first(self) -> MultiTaskModel:
        """The teacher whose features and further heads are looked at."""
        first = self._teachers[0]
        assert isinstance(first, MultiTaskModel)
        return first

    def _check_features(self, model: MultiTaskModel) -> None:
        """An error where the first teacher's features cannot be learned."""
        first, asked = self._teachers[0], f"learn the features of {self.folders[0]}"
        if not isinstance(first, MultiTaskModel):
            raise AllroundError(asked, "it is not a model with one encoder and heads",
                                "leave out features and others, to learn from its answers alone")  # fmt: skip
        for name in self._tasks.keys() & first.definitions.keys():
            if first.width(name) != model.width(name):
                raise AllroundError(asked, f"it has {first.width(name)} of them, and the model {model.width(name)}",
                                    "leave out features and others, to learn from its answers alone")  # fmt: skip

    def _reads(self, model: MultiTaskModel, task: str, width: int) -> bool:
        """Whether the heads of a task can read features of other tasks' rows."""
        heads = [one.head(task) for one in (model, self._first) if task in one.definitions]
        outputs = [head for head in heads if isinstance(head, OutputHead) and not head.per_token]
        return len(outputs) == 2 and model.width(task) == width

    def _other_distance(self, model: MultiTaskModel, task: str, found: Features, old: Tensor) -> Tensor:
        """How far the head of another task is from what the teacher's says of the same rows."""
        head = model.output_head(task)
        with torch.no_grad():
            taught = self._first.output_head(task)(old)
        return self.distance(head(found.values), taught, head.likelihood)


def _content(folder: Path) -> list[str]:
    """What tells the weights in a folder from others."""
    return [fingerprint(Weights(file)) for file in sorted(folder.rglob("*.safetensors"))]
