"""residual: each arrival has small modules of its own inside the encoder, which stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method, spelled
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.fitting import fit_head
from allround.models.share.plan import Choice, Insert, Mixing, Plan
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import plan_of


@method(
    source="one adapter for each task on a frozen encoder: Houlsby et al., ICML 2019; Hu et al., ICLR 2022 (LoRA)",
    exact=True,
)
class Residual(GrowingLearner):
    """One body whose encoder is shared and frozen. The parts of earlier arrivals are not touched, so that what they
    answer stays as it was to the bit.

    share: "lora", or a method of the family `share` whose modules are each task's own inside a frozen encoder, such as
    `adapters` or `prompt_tuning:length=8`. rank, rate: of LoRA, its learning rate where the settings name none.
    """

    def __init__(
        self, encoder: Encoder, strategy: Strategy, *, share: str = "lora", rank: int = 8, rate: float = 1e-3
    ) -> None:
        super().__init__(encoder, strategy)
        mixing = Mixing(Choice("lora", {"rank": rank, "alpha": 2.0 * rank}), owners="tasks", sees="own")
        self.plan = Plan(inserts=(Insert("linear", mixing),), frozen=True, rate=rate)
        if share != "lora":
            name, values = spelled("share", share)
            self.plan = plan_of(name, values)
        check_own(self.plan, share)

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        tasks = list(arrived.values())
        if not self.grown.bodies:
            width = self.encoder.features(tasks[0].definition)
            encoder = Sharing(self.encoder, self.plan, [[task.name for task in tasks]], [width])
            self.grown.bodies.append(MultiTaskModel(encoder, {}))
        (body,) = self.grown.bodies
        shared = body.encoder
        assert isinstance(shared, Sharing)
        for task in tasks:
            shared.add_task(task.name)
            body.add_task(task.definition, fit_head(shared, task).state)
        shared.learns = tuple(task.name for task in tasks)
        self.train(body, tasks, settings, seed=seed, scratch=scratch)
        return [Part(name, number, 0, task.name) for name, task in arrived.items()]


def check_own(plan: Plan, name: str) -> None:
    """Errors: a plan in which a task has more than modules of its own inside a frozen encoder."""
    alone = all(one.mixing.owners == "tasks" and one.mixing.sees == "own" for one in plan.inserts)
    if plan.levels or plan.tree or not plan.inserts or not plan.frozen or not alone:
        raise AllroundError(
            f"give each arrival the modules of '{name}'",
            "its tasks share modules, or tune the encoder, so that a new one would change the old",
            "choose lora, adapters, prompt_tuning or prefix",
        )
