"""Joint trainings by name: a balancer with its parameters, and the few settings that may differ beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from allround.building.alike import share_spelled
from allround.core import registry
from allround.core.errors import AllroundError, suggestion
from allround.tasks.task import Task
from allround.training.settings import Settings

#: Fixed weights, the best of a sweep on validation.
TUNED = "tuned"
#: What `NAME:key=value` may set beside the balancer's own parameters, and how it is read.
BESIDE = ("flat", "sample", "mix", "raw_scale")
#: Neighbours in the grid of learning rates differ by this factor.
STEP = 3.0


@dataclass(frozen=True)
class Joint:
    """A joint training as it was asked for. changes: settings that differ, beside the balance and its settings."""

    name: str
    balance: str
    balance_settings: dict[str, object] = field(default_factory=dict)
    changes: dict[str, object] = field(default_factory=dict)

    @property
    def differs(self) -> dict[str, object]:
        """All that it sets, for people."""
        return {**self.balance_settings, **self.changes}

    @property
    def share(self) -> str:
        """The way to share."""
        return str(self.changes.get("share", Settings.share))

    @property
    def share_settings(self) -> Mapping[str, object]:
        found = self.changes.get("share_settings", {})
        assert isinstance(found, Mapping)
        return found

    @property
    def words(self) -> str:
        """How it trains, in words.

        >>> Joint("uw", "uw").words
        'balanced by uw'
        """
        return f"that shares by {self.name}" if "share" in self.changes else f"balanced by {self.name}"

    @property
    def system(self) -> str:
        """What a build calls the model, also as the name of a folder.

        >>> Joint("cagrad:c=0.2", "cagrad").system
        'joint-cagrad-c=0.2'
        """
        return "joint-" + re.sub(r"[^A-Za-z0-9._=-]+", "-", self.name).strip("-")


def read_joint(text: str) -> Joint:
    """A joint training from `NAME` or `NAME:key=value;key=value`.

    The keys are the balancer's parameters, and flat, sample, mix and raw_scale of the settings. Values are written as
    in YAML.

    >>> read_joint("rlw:flat=0.05").changes
    {'flat': 0.05}
    """
    name, _, rest = text.strip().partition(":")
    name = name.strip()
    known = [*registry.names("balance"), TUNED]
    if name not in known:
        raise AllroundError(f"train jointly by '{name}'", "there is no balancer of that name", suggestion(name, known))
    if name == TUNED:
        if rest.strip():
            raise AllroundError(f"read the method {text!r}", "tuned weights come from the sweep and take no settings",
                                f"give {TUNED} alone")  # fmt: skip
        return Joint(TUNED, "fixed")
    parts = [part for part in rest.split(";") if part.strip()]
    beside = [part for part in parts if part.partition("=")[0].strip() in BESIDE]
    parameters = {p.name for p in registry.find("balance", name).parameters}
    for part in parts:
        key = part.partition("=")[0].strip()
        if key not in parameters and key not in BESIDE:
            raise AllroundError(f"read the method {text!r}", f"'{name}' has no parameter '{key}'",
                                suggestion(key, [*parameters, *BESIDE]))  # fmt: skip
    own = ";".join(part for part in parts if part not in beside)
    _, values = registry.spelled("balance", f"{name}:{own}" if own else name)
    return Joint(text.strip(), name, values, _changes(beside, text))


def read_share(text: str) -> Joint:
    """A joint training with equal weights that shares by a preset, from what `share_spelled` reads.

    >>> read_share("mmoe:experts=4").changes
    {'share': 'mmoe', 'share_settings': {'experts': 4}}
    """
    name, values = share_spelled(text)
    return Joint(text.strip(), "equal", {}, {"share": name, "share_settings": values})


def _changes(parts: Sequence[str], text: str) -> dict[str, object]:
    from allround.core.documents import parse_value

    found: dict[str, object] = {}
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise AllroundError(f"read the method {text!r}", f"{part!r} has no value", f"write {key}=VALUE")
        found[key] = value if key in ("sample", "mix") else parse_value(value)
    return found


def joint_settings(joint: Joint, common: Settings, *, rate: float | None = None) -> Settings:
    """The settings of a joint training: those that all have in common, but for what is its own.

    rate: the learning rate, where it is not that of `common`.
    """
    balance = {"balance": joint.balance, "balance_settings": dict(joint.balance_settings)}
    if "sample" in joint.changes:
        balance["sample_settings"] = {}
    return common.with_(**balance, **joint.changes, learning_rate=rate)


def specialist_settings(common: Settings, task: Task) -> Settings:
    """The settings of a specialist beside joint trainings: those that they have in common, as far as they mean
    something with one task. So it sees the same rows of its task as often, in batches of the same size."""
    plain = Settings()
    names = [n for n in (task.name, task.table, task.definition.kind) if n]
    return common.with_(
        **{name: getattr(plain, name) for name in ("mix", "balance", "sample", "share")},
        balance_settings={},
        sample_settings={},
        share_settings={},
        batch_sizes={n: rows for n, rows in common.batch_sizes.items() if n in names},
        task_rates={n: factor for n, factor in common.task_rates.items() if n == task.name},
    )


def rate_factors(trials: int) -> list[float]:
    """Factors on the default learning rate, the nearest to 1 first: more trials try the same ones and more.

    >>> [round(factor, 3) for factor in rate_factors(5)]
    [1.0, 0.333, 3.0, 0.111, 9.0]
    """
    powers = [0, *(sign * power for power in range(1, trials) for sign in (-1, 1))]
    return [STEP**power for power in powers[:trials]]


def sweep_weights(tasks: Sequence[str], count: int, seed: int) -> list[dict[str, float]]:
    """Weights of the tasks for a sweep, each summing to the number of tasks: equal ones first, then draws around them.

    The draws are Dirichlet's, with concentrations of 4, 1 and 16 in turn, so that some lie near and some far; a longer
    sweep begins with the same ones.

    >>> sweep_weights(["a", "b"], 2, 0)[0]
    {'a': 1.0, 'b': 1.0}
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    found = [dict.fromkeys(tasks, 1.0)] if count else []
    for number in range(count - 1):
        drawn = generator.dirichlet([(4.0, 1.0, 16.0)[number % 3]] * len(tasks)) * len(tasks)
        found.append({task: round(float(weight), 4) for task, weight in zip(tasks, drawn, strict=True)})
    return found
