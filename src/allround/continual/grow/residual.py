"""residual: each arrival has small modules of its own inside the encoder, which stays as it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from allround.continual.growing import GrowingLearner
from allround.continual.learner import StreamLearner
from allround.continual.parts import Part
from allround.continual.rows import Memory
from allround.continual.strategy import Strategy
from allround.continual.stream import Arrival
from allround.core.errors import AllroundError
from allround.core.registry import method, spelled
from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.models.encoders.sharing import Sharing
from allround.models.fitting import fit_head
from allround.models.share.plan import Choice, Insert, Mixing, Plan
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import plan_of
from allround.training.trainer import train


@method(
    source="one adapter for each task on a frozen encoder: Houlsby et al., ICML 2019; Hu et al., ICLR 2022 (LoRA)",
    exact=True,
)
class Residual(GrowingLearner):
    """One body whose encoder is shared and frozen. The parts of earlier arrivals are not touched, so that what they
    answer stays as it was to the bit.

    share: "lora", or a method of the family `share` that gives each task modules inside a frozen encoder, such as
    `adapters` or `prompt_tuning:length=8`; later tasks may use those of earlier ones, as with `rank_updates`. rank,
    rate: of LoRA, its learning rate where the settings name none.
    """

    def __init__(
        self, encoder: Encoder, strategy: Strategy, *, share: str = "lora", rank: int = 8, rate: float = 1e-3
    ) -> None:
        super().__init__(encoder, strategy)
        self.plan = make_plan(share, rank, rate)

    @classmethod
    def refusal(cls, model: MultiTaskModel, strategy: Strategy) -> str | None:
        return refusal(model, make_plan(**strategy.grow_settings))

    @classmethod
    def go_on(
        cls, model: MultiTaskModel, strategy: Strategy, tasks: Sequence[Task] = (), *, seed: int = 0
    ) -> StreamLearner:
        return FurtherModules(model, make_plan(**strategy.grow_settings))

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


class FurtherModules(StreamLearner):
    """A finished model to which an arrival adds modules of its tasks. Old tasks read the encoder as it is."""

    def __init__(self, model: MultiTaskModel, plan: Plan) -> None:
        self.memory = Memory()
        if (words := refusal(model, plan)) is not None:
            raise AllroundError("add modules to a finished model", words, "use another strategy")
        if not isinstance(model.encoder, Sharing):
            model.encoder = Sharing(model.encoder, plan, [], [], bare=True)
        self.model = model.eval()

    @property
    def system(self) -> MultiTaskModel:
        return self.model

    def adopt(self, system: System) -> None:
        assert isinstance(system, MultiTaskModel)
        self.model = system

    def learn(
        self,
        arrival: Arrival,
        strategy: Strategy,
        settings: Settings,
        *,
        seed: int = 0,
        scratch: Path | None = None,
        base: Encoder | None = None,
        fit: bool = False,
    ) -> None:
        started = time.perf_counter()
        encoder = self.model.encoder
        assert isinstance(encoder, Sharing)
        torch.manual_seed(seed_of(seed, "grow", arrival.name))
        for task in arrival.tasks:
            encoder.add_tasks([task.name])
            self.model.add_task(replace(task.definition, head=""), fit_head(encoder, task).state)
        encoder.learns = tuple(task.name for task in arrival.tasks)
        chosen = settings.with_(heads="tuned", tune="full")
        self.steps += train(self.model, arrival.tasks, chosen, seed=seed_of(seed, arrival.name), scratch=scratch).steps
        encoder.learns = None
        self.model.eval()
        self.seconds += time.perf_counter() - started


def make_plan(share: str = "lora", rank: int = 8, rate: float = 1e-3) -> Plan:
    """The modules of an arrival. Errors: those of `check_own`."""
    mixing = Mixing(Choice("lora", {"rank": rank, "alpha": 2.0 * rank}), owners="tasks", sees="own")
    plan = Plan(inserts=(Insert("linear", mixing),), frozen=True, rate=rate)
    if share != "lora":
        name, values = spelled("share", share)
        plan = plan_of(name, values)
    check_own(plan, share)
    return plan


def refusal(model: MultiTaskModel, plan: Plan) -> str | None:
    """Why modules of a plan cannot be added to a finished model; None where they can."""
    if any(one.site != "linear" for one in plan.inserts):
        return "only modules beside layers, such as lora, can be added to a finished model"
    encoder = model.encoder
    if isinstance(encoder, Sharing) and not (encoder.bare and encoder.plan == plan):
        return "the model's encoder has modules of another plan already"
    return None


def check_own(plan: Plan, name: str) -> None:
    """Errors: a plan in which more than the modules and the gate of a task inside a frozen encoder would learn."""
    alone = all(one.mixing.owners == "tasks" and one.mixing.gates == "own" and not one.mixing.stages
                for one in plan.inserts)  # fmt: skip
    if plan.levels or plan.tree or not plan.inserts or not plan.frozen or not alone:
        raise AllroundError(
            f"give each arrival the modules of '{name}'",
            "its tasks share modules, or tune the encoder, so that a new one would change the old",
            "choose lora, adapters, prompt_tuning or prefix",
        )
