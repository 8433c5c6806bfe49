"""own_lane: each arrival has selectors and prompts of its own beside the blocks of a frozen transformer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.encoders.lanes import Lanes
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings


@method(source="MULTI-LANE: De Min et al., CoLLAs 2024, arXiv:2405.15633; tdemin16/multi-lane", exact=True)
class OwnLane(GrowingLearner):
    """One body with an encoder `Lanes`. Lanes of earlier arrivals are not touched, so that what they answer stays as it
    was to the bit.

    selectors, prompts, layers: see the encoder.
    """

    def __init__(
        self, encoder: Encoder, strategy: Strategy, *, selectors: int = 20, prompts: int = 20, layers: int = 5
    ) -> None:
        super().__init__(encoder, strategy)
        if min(selectors, prompts) < 1 or layers < 0:
            raise AllroundError("give each arrival a lane", f"selectors is {selectors}, prompts {prompts} and layers "
                                f"{layers}", "give 1 selector and 1 prompt or more, and 0 layers or more")  # fmt: skip
        self.sizes = {"selectors": selectors, "prompts": prompts, "layers": layers}

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        if not self.grown.bodies:
            self.grown.bodies.append(MultiTaskModel(Lanes(self.encoder, (), **self.sizes), {}))
        (body,) = self.grown.bodies
        lanes = body.encoder
        assert isinstance(lanes, Lanes)
        for task in arrived.values():
            lanes.add_task(task.name)
            body.add_task(task.definition, fit_head(lanes, task).state)
        lanes.learns = tuple(task.name for task in arrived.values())
        self.train(body, list(arrived.values()), settings, seed=seed, scratch=scratch)
        return [Part(name, number, 0, task.name) for name, task in arrived.items()]
