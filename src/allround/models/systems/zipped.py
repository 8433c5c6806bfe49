"""Models that share their first layers: one trunk, and a tail for each of the models it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.schema import fitted
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoder import Encoder
from allround.models.head_files import HEADS, read_heads, write_heads
from allround.models.model import parameters_of
from allround.models.system import System
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.values import Row


@method(
    source="partial zipping: Stoica et al., ICLR 2024, arXiv:2305.03053, section 4.2",
    paper="ZipIt! Merging Models from Different Tasks without Training",
)
class Zipped(System):
    """Models of one sort that hold some of their encoders' weights in common, the trunk. A task is answered by the
    model that it came from; weights of the trunk are kept once, in memory and on disk."""

    sort = "zipped"

    def __init__(self, members: Sequence[MultiTaskModel]) -> None:
        self.members = list(members)
        self.definitions = {name: d for member in self.members for name, d in member.definitions.items()}
        self.facts: dict[str, object] = {}

    def member(self, task: str) -> MultiTaskModel:
        """The model that answers a task."""
        self.definition(task)
        return next(member for member in self.members if task in member.definitions)

    @property
    def encoders(self) -> list[Encoder]:
        return [member.encoder for member in self.members]

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        task = self.only_task() if task is None else task
        wanted = self.wants_scores(task, scores)
        for made in self.member(task).answer(task, rows, batch_size=batch_size, scores=wanted):
            yield self.finished(task, made, scores)

    def answer_tasks(
        self, tasks: Sequence[str], rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False
    ) -> dict[str, Answers]:
        """Tasks of one member share its encoder."""
        found: dict[str, Answers] = {}
        for member in dict.fromkeys(self.member(task) for task in tasks):
            own = [task for task in tasks if task in member.definitions]
            wanted = any(self.wants_scores(task, scores) for task in own)
            found.update(member.answer_tasks(own, rows, batch_size=batch_size, scores=wanted))
        return {task: self.finished(task, found[task], scores) for task in tasks}

    def to(self, device: torch.device | str) -> Zipped:
        first, *others = self.encoders
        shared = [[n for n, t in _tensors(other).items() if t is _tensors(first)[n]] for other in others]
        for member in self.members:
            member.to(device)
        for other, names in zip(others, shared, strict=True):  # a move makes buffers anew
            for name in names:
                _put(other, name, _tensors(first)[name])
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        names = list(self.definitions if tasks is None else tasks)
        asked = [member for member in self.members if any(name in member.definitions for name in names)]
        heads = sum(parameters_of(self.member(name).head(name)) for name in names)
        used = (parameters_of(self.member(n).encoder) + parameters_of(self.member(n).head(n)) for n in names)
        stored = parameters_of(nn.ModuleList(member.encoder for member in asked)) + heads
        return Cost(parameters_stored=stored, parameters_used=max(used, default=0))

    def write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        (folder / "encoder").mkdir()
        first = self.encoders[0]
        first.save(folder / "encoder")
        shared = _tensors(first)
        own = {
            f"{number}.{name}": tensor.detach().cpu().clone()
            for number, encoder in enumerate(self.encoders)
            for name, tensor in _tensors(encoder).items()
            if tensor is not shared[name]
        }
        save_file(own, folder / TAILS, {"format": "pt"})
        write_heads(folder / HEADS, {name: self.member(name).head(name).stored() for name in self.definitions})
        self.write_manifest(folder, members=[list(member.definitions) for member in self.members])

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> Zipped:
        from allround.checkpoints.header import FLOATS
        from allround.checkpoints.weights import Weights

        asked = f"load the model in {folder}"
        try:
            listed = fitted(list[list[str]], facts.get("members"))
            if not listed or sorted(name for names in listed for name in names) != sorted(definitions):
                raise ValueError("it does not list each task once")
        except ValueError as error:
            raise AllroundError(asked, f"allround.json does not say which member answers each task: {error}",
                                "copy the folder again, whole") from error  # fmt: skip
        first = load_encoder(folder / "encoder")
        own = Weights(folder / TAILS)
        states: list[dict[str, Tensor]] = [{} for _ in listed]
        known = _tensors(first)
        for name in own:
            number, _, tensor = name.partition(".")
            place = known.get(tensor)
            fits = place is not None and own.shape(name) == tuple(place.shape) and own.dtype(name) in FLOATS
            if not fits or number not in map(str, range(1, len(states))):
                raise AllroundError(asked, f"'{name}' in its {TAILS} does not belong to the encoder",
                                    "copy the folder again, whole")  # fmt: skip
            states[int(number)][tensor] = own.get(name)
        heads = read_heads(folder / HEADS)
        members = []
        for encoder, names in zip(copies(first, states), listed, strict=True):
            member = MultiTaskModel(encoder, {})
            member.add_heads({name: definitions[name] for name in names}, heads)
            members.append(member.eval())
        made = cls(members)
        made.definitions = dict(definitions)
        made.facts = {name: value for name, value in facts.items() if name != "members"}
        return made


#: The file of the weights that are a member's own.
TAILS = "tails.safetensors"


def copies(first: Encoder, states: Sequence[Mapping[str, Tensor]]) -> list[Encoder]:
    """An encoder and copies of it that hold its very tensors, but for those of their own.

    states: for each, the encoder itself among them, its own tensors by name; the encoder's are there already.
    """
    found = [first]
    for state in states[1:]:
        made = deepcopy(first)
        own = _tensors(made)
        for name, tensor in _tensors(first).items():
            if name in state:
                with torch.no_grad():
                    own[name].copy_(state[name])
            else:
                _put(made, name, tensor)
        found.append(made)
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers as they stand in it, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a tensor the parameter or buffer of that name, the very same object."""
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    (module._parameters if last in module._parameters else module._buffers)[last] = tensor  # type: ignore[assignment]
