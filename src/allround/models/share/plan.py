"""What is shared, as plain data: the parts of an architecture, which a preset chooses and a saved model holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from allround.core import registry


@dataclass(frozen=True)
class Choice:
    """A bank or a gate: the name of its file, and its settings."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Mixing:
    """Modules, and how the gate of each task mixes what they give.

    owners: who has modules: "shared" (all tasks together), "tasks" (each its own), or "tasks+shared". count: modules of
    each task; shared: of all together. sees: what a task's gate chooses from: "all" modules, its "own+shared", or its
    "own"; the gate of the shared stream sees all. shared_gate: that gate, where it is of another sort than a task's.
    start: how much a task uses each of the shared modules as training begins, from 0 to 1; the gates of tasks that are
    not there begin as their sort does.

    Of modules inside the encoder: gates: whether each task has its "own" gate, or all have one in "common", which reads
    the task's vector. reads: what gates read: "vectors" (where the modules are), the "task" (its vector), or "both".
    stages: in the first half of the training each task learns its own modules alone, and in the second half these stay
    and the gates learn. mutual: weight of the mutual information of tasks and modules, which is to be large.
    """

    bank: Choice
    gate: Choice = field(default_factory=lambda: Choice("even"))
    owners: Literal["shared", "tasks", "tasks+shared"] = "shared"
    count: int = 1
    shared: int = 1
    sees: Literal["all", "own+shared", "own"] = "all"
    shared_gate: Choice | None = None
    start: Mapping[str, Sequence[float]] = field(default_factory=dict)
    gates: Literal["own", "common"] = "own"
    reads: Literal["vectors", "task", "both"] = "vectors"
    stages: bool = False
    mutual: float = 0.0


@dataclass(frozen=True)
class Level:
    """One level of a network behind the encoder.

    units: numbers that each stream has behind it; 0 for as many as before. outputs: whose streams it gives: those of
    the owners of its modules (shared modules: one for each module of the next level), those of the "tasks", or "both";
    the last level always gives those of the tasks. modules_read: "stream" (what the level before gave), "input" (what
    the encoder gave), or both side by side. gate_reads: one of the two, "outputs" (what each module gives), or
    "outputs+stream" (the mean of that beside the stream). residual: "stream" adds the stream that came in, "weighed"
    makes it one more module that the gate weighs. orthogonal: what the modules give is made orthonormal in each row.
    after: an activation behind the mix. ends: tasks whose streams stay as they are from there on.
    """

    mixing: Mixing
    units: int = 128
    outputs: Literal["owners", "tasks", "both"] = "owners"
    gate_reads: Literal["stream", "input", "outputs", "outputs+stream"] = "stream"
    modules_read: Literal["stream", "input", "input+stream"] = "stream"
    residual: Literal["none", "stream", "weighed"] = "none"
    orthogonal: bool = False
    after: Literal["none", "relu", "tanh"] = "none"
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generator:
    """What makes the weights of modules, in place of each task's own.

    form: "network", from the task's vector, a vector of the block and one of the place in the block; "factors", a
    tensor that all tasks share times thin matrices of each task. units: numbers of the hidden layer of the network.
    places: numbers of the vectors of a block and of a place in it; 0 for a network of its own at each place. ranks:
    columns of the thin matrices. deviation: of the weights that it makes as it begins.
    """

    form: Literal["network", "factors"] = "network"
    units: int = 128
    places: int = 64
    ranks: int = 1
    deviation: float = 1e-3


@dataclass(frozen=True)
class Vectors:
    """A vector of each task. size: its numbers. source: whether they are learned, made from the task's description by
    the encoder, or marks of what the task is like. given: those that are not learned."""

    size: int = 64
    source: Literal["learned", "description", "attributes"] = "learned"
    given: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Insert:
    """Modules inside the encoder.

    site: the layers that they sit at, as `sites.layers_at` names them; "experts" widens the feed-forward parts; "input"
    puts vectors in front of the embedded input, "blocks" at each block. every: at each so-manieth block. length: of
    what is put in front, how many vectors. tied: whether a task's gate is the same at all layers. fixed: whether these
    layers stay as they are, so that a change of each is all that learns there.
    """

    site: str
    mixing: Mixing
    every: int = 1
    length: int = 0
    tied: bool = False
    generator: Generator | None = None
    fixed: bool = False


@dataclass(frozen=True)
class Branching:
    """A tree of the encoder's own stages: copies of each, of which a task goes through one at a stage.

    by: how the tree is found: "choice", each stage and task chooses the copy before it; "similarity", each task has
    copies of its own, and those that come to give alike things become one. until: the share of the training after which
    the tree stays as it is. copies: of each stage, with "choice"; 0 for as many as tasks, at most 6. shared: the share
    of the training before which all share one copy. prior: the logit of that copy as choices begin; those of the others
    are 0. hot, cold: the temperature of choices at first and in the end.
    threshold: the mean similarity from which copies become one. rows: that it is measured on. align: weight of the loss
    that makes copies alike before they are compared. distil: passes over these rows in which a joint copy learns what
    its members gave.
    """

    by: Literal["choice", "similarity"]
    until: float = 0.3
    copies: int = 0
    shared: float = 0.1
    prior: float = 2.0
    hot: float = 2.0
    cold: float = 0.5
    threshold: float = 0.8
    rows: int = 256
    align: float = 0.2
    distil: int = 4


@dataclass(frozen=True)
class Plan:
    """An architecture: modules inside the encoder, a network behind it, both, or a tree of the encoder's stages.

    frozen: whether the encoder's own weights stay as they are. rate: the learning rate of all that is added; None is
    the encoder's own. vectors: of the tasks, where gates or generators read them.
    """

    inserts: tuple[Insert, ...] = ()
    levels: tuple[Level, ...] = ()
    tree: Branching | None = None
    frozen: bool = False
    rate: float | None = None
    vectors: Vectors | None = None

    @property
    def empty(self) -> bool:
        """Whether tasks share the encoder as it is."""
        return not self.inserts and not self.levels and self.tree is None

    @property
    def mixings(self) -> tuple[Mixing, ...]:
        """Those of inserts, then those of levels."""
        return (*(one.mixing for one in self.inserts), *(one.mixing for one in self.levels))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """What `to_json` made. Errors: TypeError or ValueError for what it cannot have made."""
        made: Plan = _read(cls, value)
        return made


def _read(type_: Any, value: Any) -> Any:
    """A value of plain data as the type that a field has."""
    if is_dataclass(type_):
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r} is not a mapping")
        types = get_type_hints(type_)
        odd = set(value) - {f.name for f in fields(type_)}
        if odd:
            raise ValueError(f"unknown part '{sorted(odd)[0]}'")
        made: Any = type_
        return made(**{name: _read(types[name], one) for name, one in value.items()})
    arguments = get_args(type_)
    if get_origin(type_) is Literal and value not in arguments:
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, arguments))}")
    if get_origin(type_) is UnionType:
        return None if value is None else _read(arguments[0], value)
    if get_origin(type_) is tuple and isinstance(value, Sequence):
        return tuple(_read(arguments[0], one) for one in value)
    return value


def part(family: str, choice: Choice, *arguments: object) -> Any:
    """The module of a bank or a gate. Errors: no such file; settings that it does not have."""
    entry = registry.find(family, choice.name)
    return entry.load()(*arguments, **entry.resolve(dict(choice.settings)))
