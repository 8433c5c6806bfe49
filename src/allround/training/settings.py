"""What a user can choose about training; defaults live here and nowhere else."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.training.mix import parse_mix


@dataclass(frozen=True)
class Settings:
    """How to train. `None` leaves the choice to the encoder (its own rate and number of epochs).

    The lines of an entry that are not indented are the help of the option of that name on the command line.

    epochs: Passes over the training rows. Default: the encoder's.
    batch_size: Rows in a training step.
    learning_rate: Learning rate. Default: the encoder's.
    weight_decay: Weight decay of the optimiser.
    warmup: Share of all steps in which the rate rises to the learning rate.
    clip: Longest gradient of a step; a longer one is cut to this length, over all weights together.
    patience: Evaluations without a better score after which a task is drawn no more.
        `None` trains to the end.
    keep: "best" leaves the model in its best state on validation, "last" as it is at the end.
    optimiser: "adamw", or "sgd" (plain gradient descent, without momentum).
    start, stop: The part of the training that is done, as shares of all its steps.
        Tasks, rows and rate are those that the whole training has there, so that parts done one after the other see
        each row as often as the whole; only the optimiser's averages begin anew.
    tune: full: all encoder weights. lora: low-rank changes.
    lora_rank: Rank of LoRA. Default: the encoder's.
    heads: frozen: keep heads as fitted on the base. tuned: train them along.
        With frozen heads all specialists write into one feature space.
    sample: How often tasks are drawn, such as temperature:temperature=3 (`allround methods list --family sample`).
        In Python the name alone; `sample_settings` are that method's parameters.
    mix: Tasks that a step holds, a batch of each: one, all, kind (those of one kind), or a number.
        A task that is drawn less often than others is missing from some steps.
    balance: How tasks of a step are weighed, such as cagrad:c=0.4 (`allround methods list --family balance`).
        In Python the name alone; `balance_settings` are that method's parameters. Weights are rescaled to sum to the
        number of tasks, unless `raw_scale` is set; a step follows the mean of the weighted gradients.
    share: What tasks share, such as mmoe:experts=4 (`allround methods list --family share`).
        In Python the name alone; `share_settings` are that preset's parameters. hard shares the encoder, and no more.
    raw_scale: Weights as the method has them, not rescaled to the number of tasks.
    flat: Radius of sharpness-aware steps (flat regions), such as 0.05.
        Each task's loss is to be flat within it; 0 takes plain steps.
    accumulate: Compute a batch in so many parts, one after the other, to save memory.
    chunk: Texts that pass the encoder at a time, to save memory; 0: those of a whole batch.
        Only their vectors are kept, and the gradient computes each chunk again (GradCache: Gao et al., RepL4NLP 2021,
        arXiv:2101.06983). The step is that of the whole batch, where `accumulate` would compare rows of a part alone.
    batch_sizes: Rows in a batch of one task or kind: NAME=8; may be repeated.
        In Python a dictionary; tasks and kinds without an entry have `batch_size` rows.
    task_rates: Factor on a task's learning rate: TASK=0.5; may be repeated.
        In Python a dictionary; the factor holds for the task's head, and for its part of a step.
    restore_heads: A task gets its best head back where that scores better (--heads tuned).
        At the end, with the final encoder, heads are compared with those of the best evaluation of the task.
    terms: What is added to training, such as l2_sp:weight=0.01 (methods list --family term); may be repeated.
        In Python a dictionary: name -> parameters. `train` also takes terms as objects.
    device: auto, cpu or cuda.
    precision: auto, fp32 or bf16, in training.
        "bf16" computes matrix products in bfloat16 (weights and the best state stay float32), "fp32" does not; "auto"
        takes the one that is faster on the processor or GPU. Final predictions are always made in float32.
    """

    epochs: int | None = None
    batch_size: int = 16
    learning_rate: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    patience: int | None = None
    keep: str = "best"
    optimiser: str = "adamw"
    start: float = 0.0
    stop: float = 1.0
    tune: str = "full"
    lora_rank: int | None = None
    heads: str = "frozen"
    sample: str = "proportional"
    sample_settings: dict[str, Any] = field(default_factory=dict)
    mix: str = "one"
    balance: str = "equal"
    balance_settings: dict[str, Any] = field(default_factory=dict)
    share: str = "hard"
    share_settings: dict[str, Any] = field(default_factory=dict)
    raw_scale: bool = False
    flat: float = 0.0
    accumulate: int = 1
    chunk: int = 0
    batch_sizes: dict[str, int] = field(default_factory=dict)
    task_rates: dict[str, float] = field(default_factory=dict)
    restore_heads: bool = False
    terms: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for one in fields(self):
            _check_type(one.name, str(one.type), getattr(self, one.name))
        for name, known in {
            "tune": ("full", "lora"),
            "heads": ("frozen", "tuned"),
            "keep": ("best", "last"),
            "optimiser": ("adamw", "sgd"),
            "precision": ("auto", "fp32", "bf16"),
        }.items():
            if getattr(self, name) not in known:
                raise AllroundError(
                    f"train with {name}={getattr(self, name)!r}",
                    "there is no such choice",
                    suggestion(str(getattr(self, name)), known),
                )
        registry.find("sample", self.sample).resolve(self.sample_settings)
        registry.find("balance", self.balance).resolve(self.balance_settings)
        registry.find("share", self.share).resolve(self.share_settings)
        parse_mix(self.mix, ("classification",))
        for name, values in self.terms.items():
            registry.find("term", name).resolve(values)
        for name, rows in self.batch_sizes.items():
            if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
                raise AllroundError(f"train '{name}' with batches of {rows!r} rows", "a batch has at least 1 row",
                                    "give 1 or more")  # fmt: skip
        lowest = {
            "batch_size": 1,
            "accumulate": 1,
            "chunk": 0,
            "flat": 0,
            "patience": 1,
            "lora_rank": 1,
            "clip": 1e-9,
            "weight_decay": 0,
            "warmup": 0,
        }
        for name, low in lowest.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise AllroundError(
                    f"train with {name}={getattr(self, name)}", "that is too small", f"give at least {low}"
                )
        if self.restore_heads and self.heads != "tuned":
            raise AllroundError("give tasks their best heads back", "heads are frozen, so there is one of each",
                                "let heads be tuned: heads=tuned (--heads tuned)")  # fmt: skip
        if self.warmup > 1:
            raise AllroundError(f"train with warmup={self.warmup}", "it is a share of all steps", "give at most 1")
        if not 0 <= self.start < self.stop <= 1:
            raise AllroundError(
                f"train from {self.start} to {self.stop} of all steps",
                "start is not below stop, or one is not a share",
                "give shares with 0 <= start < stop <= 1",
            )
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise AllroundError(f"train with {name}={value}", "it must be positive", f"leave {name} out for the "
                                    "encoder's own")  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        if not self.terms:  # as it was before there were terms, so that finished work is known again
            del found["terms"]
        if not self.chunk:
            del found["chunk"]
        if self.share == "hard" and not self.share_settings:
            del found["share"], found["share_settings"]
        return found

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Settings:
        known = {f.name for f in fields(cls)}
        for name in value:
            if name not in known:
                raise AllroundError(f"set '{name}' for training", "there is no such setting", suggestion(name, known))
        return cls(**value)

    def with_(self, **changes: Any) -> Settings:
        """A copy with some values changed; `None` leaves a value as it is."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "dict[str, int]": (dict,),
    "dict[str, float]": (dict,),
    "dict[str, Any]": (dict,),
}


def _check_type(name: str, type_: str, value: Any) -> None:
    plain = type_.removesuffix(" | None")
    if value is None and plain != type_:
        return
    if (
        not isinstance(value, _TYPES[plain])
        or isinstance(value, bool) != (plain == "bool")
        or value in (math.inf, -math.inf)
        or value != value
    ):
        raise AllroundError(
            f"train with {name}={value!r}",
            f"that is a {type(value).__name__}, and the setting is a {plain}",
            "give "
            + {"int": "a whole number", "float": "a finite number", "str": "a word", "bool": "true or false"}.get(
                plain, "a mapping"
            ),
        )
