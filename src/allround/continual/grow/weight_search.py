"""weight_search: each arrival takes its kernels from pools, and is kept as numbers of entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.encoders.pooled import Pooled
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings

#: Entries whose numbers fit into two bytes.
MOST = 2**15


@method(source="Neural Weight Search: README.md of JianJiangKCL/NeuralWeightSearch", exact=True)
class WeightSearch(GrowingLearner):
    """One body around an encoder with pools of its own kernels: see `Pooled`. Earlier arrivals are not touched, so that
    what they answer stays as it was to the bit.

    entries: of each pool. commitment: weight of the distance from weights to entries while an arrival learns.
    Errors: more entries than two bytes can number.
    """

    def __init__(self, encoder: Encoder, strategy: Strategy, *, entries: int = 512, commitment: float = 0.5) -> None:
        super().__init__(encoder, strategy)
        if not 1 <= entries <= MOST:
            raise AllroundError(f"make pools of {entries} entries", "their numbers take two bytes",
                                f"give 1 to {MOST}")  # fmt: skip
        self.entries, self.commitment = entries, commitment

    @property
    def bytes(self) -> int:
        return super().bytes + sum(body.encoder.bytes for body in self.grown.bodies if isinstance(body.encoder, Pooled))

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        if not self.grown.bodies:
            encoder = Pooled.around(self.encoder, self.entries, commitment=self.commitment)
            self.grown.bodies.append(MultiTaskModel(encoder, {}))
        (body,) = self.grown.bodies
        pooled = body.encoder
        assert isinstance(pooled, Pooled)
        for task in arrived.values():
            pooled.add_task(task.name)
            body.add_task(task.definition, fit_head(pooled, task).state)
            pooled.search(task.name)
        pooled.learns = tuple(task.name for task in arrived.values())
        self.train(body, list(arrived.values()), settings, seed=seed, scratch=scratch)
        for task in arrived.values():
            pooled.settle(task.name)
        return [Part(name, number, 0, task.name) for name, task in arrived.items()]
