"""knn: the answer of the modules, mixed with the labels of the nearest training rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.combining import Combine
from allround.composition.modules.bank import Gate, ModuleBank
from allround.composition.router import RouteRows, taken_state
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.batch import Answers, Batch
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.kind import kind


@method(
    source="Zhang et al., EACL 2024, arXiv:2401.17092, section 3; kNN-LM: Khandelwal et al., ICLR 2020",
    paper="NNOSE: Nearest Neighbor Occupational Skill Extraction",
)
class Knn(Combine):
    """Answers as `outputs` does, with the probabilities share * q + (1 - share) * p: p are those of the task's head,
    and q the labels of the `k` nearest training rows (or words) of the task, by the softmax of -distance² /
    temperature. Vectors are the base's own, scaled to length 1. Tasks without labels are answered as by `outputs`.

    Differs: the paper stores vectors of the tuned model, from all data sets at once, since these have the same labels.
    """

    name = "knn"

    def __init__(self, *, k: int = 8, share: float = 0.25, temperature: float = 0.1) -> None:
        if k < 1 or not 0 <= share <= 1 or not temperature > 0:
            raise AllroundError(
                f"mix in {k} nearest rows with share={share} and temperature={temperature}",
                "there must be one at least, the share must be from 0 to 1, and the temperature above 0",
                "give such numbers",
            )
        self.k, self.share, self.temperature = k, share, temperature
        #: Of each task with labels: vectors (n, d), and the labels that these have (n, labels).
        self.stores: dict[str, tuple[Tensor, Tensor]] = {}

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        self.stores = {}
        for name, rows in tasks.items():
            rules = kind(rows.definition.kind)
            reads = registry.find("head", rows.model.head(name).sort).facts["reads"]
            if not rules.fixed_labels or reads != "vectors" or not len(rows):
                continue
            vectors = features_of(bank.encoder, rows.prepared, rows.definition).of(name).values
            if rules.exclusive:
                numbers = np.concatenate(rows.targets) if rules.per_token else np.asarray(rows.targets)
                labels = F.one_hot(torch.from_numpy(numbers).long(), len(rows.definition.labels)).float()
            else:
                labels = torch.as_tensor(np.asarray(rows.targets), dtype=torch.float32)
            self.stores[name] = F.normalize(vectors, dim=-1), labels

    def state(self) -> dict[str, Tensor]:
        vectors = {f"vectors.{name}": vectors for name, (vectors, _) in self.stores.items()}
        return vectors | {f"labels.{name}": labels for name, (_, labels) in self.stores.items()}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        names = [name.removeprefix("vectors.") for name in state if name.startswith("vectors.")]
        shapes: dict[str, tuple[int | None, ...]] = {}
        for name in names:
            rows = len(state[f"vectors.{name}"])
            shapes |= {f"vectors.{name}": (rows, None), f"labels.{name}": (rows, None)}
        tensors = iter(taken_state(state, **shapes))
        self.stores = {name: (next(tensors), next(tensors)) for name in names}

    def answer(
        self,
        model: MultiTaskModel,
        bank: ModuleBank,
        task: str,
        batch: Batch,
        weighing: Tensor | Gate,
        *,
        scores: bool = False,
    ) -> Answers:
        if task not in self.stores:
            return super().answer(model, bank, task, batch, weighing, scores=scores)
        made = super().answer(model, bank, task, batch, weighing, scores=True)
        near = self.near(task, model.features(batch).of(task).values).cpu().numpy()
        assert made.scores is not None
        if isinstance(made.scores, list):
            parts = np.split(near, np.cumsum([len(one) for one in made.scores])[:-1])
            mixed: np.ndarray | list[np.ndarray] = [
                self._mix(own, other) for own, other in zip(made.scores, parts, strict=True)
            ]
        else:
            mixed = self._mix(made.scores, near)
        predictions, confidence = kind(model.definition(task).kind).decide(mixed)
        return Answers(predictions, confidence, mixed if scores else None)

    def _mix(self, own: np.ndarray, near: np.ndarray) -> np.ndarray:
        return np.asarray(self.share * near + (1 - self.share) * own, dtype=np.float32)

    def near(self, task: str, vectors: Tensor) -> Tensor:
        """What the nearest training rows of a task say of vectors: (n, d) -> (n, labels)."""
        stored, labels = (tensor.to(vectors.device) for tensor in self.stores[task])
        distances = 2 - 2 * F.normalize(vectors.float(), dim=-1) @ stored.T
        nearest, rows = distances.topk(min(self.k, len(stored)), largest=False)
        return ((-nearest / self.temperature).softmax(-1)[..., None] * labels[rows]).sum(1)
