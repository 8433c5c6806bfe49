"""The trainings of a comparison: each by its settings and its seed, as a piece and the job that makes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from allround.building.joint import TUNED, Joint, joint_settings, specialist_settings
from allround.building.stages.heads import Start
from allround.building.stages.tuning import joint_piece, specialist_piece
from allround.building.workshop import Workshop
from allround.core.jobs import Job
from allround.core.pieces import Piece
from allround.evaluation.training import EQUAL
from allround.training.settings import Settings
from allround.training.sharing import plan_of


@dataclass(frozen=True)
class Trainings:
    """All trainings from one start. joints: what is compared, by name. settings: what all have in common."""

    shop: Workshop
    start: Start
    joints: Mapping[str, Joint]
    settings: Settings

    @property
    def tasks(self) -> list[str]:
        return list(self.start.data.tasks)

    @property
    def rate(self) -> float:
        """The learning rate that the others are multiples of."""
        own = self.start.base.learning_rate * (4 if self.settings.tune == "lora" else 1)
        return self.settings.learning_rate or own

    def joint_rate(self, joint: Joint) -> float:
        """The learning rate that those of a joint training are multiples of: that of what a way to share adds, where
        it trains nothing else."""
        plan = plan_of(joint.share, joint.share_settings)
        return plan.rate if plan.frozen and plan.rate and not self.settings.learning_rate else self.rate

    def joint(self, joint: Joint, factor: float, seed: int) -> tuple[Piece, Job]:
        """A joint training at a multiple of the learning rate."""
        settings = joint_settings(joint, self.settings, rate=self.joint_rate(joint) * factor)
        return joint_piece(self.shop, self.start, settings, seed, f"compared-{joint.balance}")

    def specialist(self, task: str, factor: float, seed: int) -> tuple[Piece, Job]:
        """The training of a specialist at a multiple of the learning rate."""
        settings = specialist_settings(self.settings, self.start.data.tasks[task])
        settings = settings.with_(learning_rate=self.rate * factor)
        return specialist_piece(self.shop, self.start, task, settings, seed, "compared-specialist")

    def weighted(self, weights: Mapping[str, float], factor: float, seed: int) -> tuple[Piece, Job]:
        """A joint training with fixed weights of the tasks; with equal ones it is that of `equal`."""
        joint = self.joints[EQUAL]
        if len(set(weights.values())) > 1:
            joint = Joint(TUNED, "fixed", {"weights": dict(weights)})
        return self.joint(joint, factor, seed)


def has_weights(piece: Piece) -> bool:
    """Whether a training's weights are still there."""
    return (piece.folder / "encoder").is_dir()


def drop_weights(pieces: Iterable[Piece]) -> None:
    """Keep of each training what it has to say; its weights would fill the disk."""
    for piece in pieces:
        if has_weights(piece):
            facts = piece.facts
            with piece.make() as (_, kept):
                kept.update(facts)
