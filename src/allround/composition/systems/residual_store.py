"""A store of residuals as a system: every task is answered with the weights of its own specialist."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from allround.checkpoints.header import torch_dtype
from allround.composition.residuals.residual import Residual
from allround.composition.residuals.store import Store, find_places
from allround.core.locks import Lock
from allround.core.registry import method
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.cost import Cost
from allround.models.encoder import Encoder
from allround.models.head_files import HEADS, read_heads
from allround.models.manifest import MANIFEST
from allround.models.model import device_of, parameters_of
from allround.models.system import System, windows
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.values import Row


@method(source="one base and a compressed change for each specialist, opened one at a time")
class ResidualStore(System):
    """A store of residuals that answers.

    It holds one model in memory. A task's weights are made when it is asked for and stay until another one is: each is
    the stored weight plus the task's residual, so nothing is left of the task before. Threads are answered one at a
    time.
    """

    sort = "residual_store"

    def __init__(self, store: Store, facts: Mapping[str, object] | None = None) -> None:
        """facts: what the manifest says of the store, where it has been written."""
        self.store = store
        self.model = MultiTaskModel(load_encoder(store.folder / "encoder"), {})
        heads = read_heads(store.folder / HEADS) if store.definitions else {}
        self.model.add_heads(store.definitions, heads)
        self.model.eval()
        self.definitions = dict(store.definitions)
        self.facts: dict[str, object] = {"residuals": dict(store.made)} if facts is None else dict(facts)
        self._places = find_places(self.model.encoder, store)
        self._opened: str | None = None
        self._lock = Lock()

    def open(self, task: str) -> MultiTaskModel:
        """Put a task's weights into the model, and give that. Another task's weights take their place later."""
        file = self.store.file(task)
        with self._lock:
            if file == self._opened:
                return self.model
            self._opened = None  # until all is in: a failure on the way leaves a mixture
            residual = self.store.residual(file)
            with torch.inference_mode(False), torch.no_grad():
                if self._places is None:
                    self.model.encoder = self._load(residual).to(device_of(self.model))
                else:
                    state = self.model.encoder.state_dict()
                    for name, place in self._places.items():
                        state[place].copy_(self.store.tensor(residual, name))
            self._opened = file
        return self.model

    def close(self) -> None:
        """Forget which task is open, as its residual was written anew."""
        self._opened = None

    def _load(self, residual: Residual) -> Encoder:
        """The encoder by way of a folder, where it holds its weights otherwise than its files do."""
        with tempfile.TemporaryDirectory() as folder:
            self.store.write_encoder(residual, Path(folder))
            return load_encoder(folder)

    def answer(
        self, task: str | None, rows: Iterable[Row], *, batch_size: int = 64, scores: bool = False
    ) -> Iterator[Answers]:
        if task is None:
            task = self.only_task()
        self.definition(task)
        for some in windows(rows):
            yield self.answers(task, some, batch_size=batch_size, scores=scores)

    def answers(self, task: str, rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False) -> Answers:
        self.definition(task)
        with self._lock:  # no other thread's task in between
            wanted = self.wants_scores(task, scores)
            made = self.open(task).answers(task, rows, batch_size=batch_size, scores=wanted)
        return self.finished(task, made, scores)

    def answer_tasks(
        self, tasks: Sequence[str], rows: Sequence[Row], *, batch_size: int = 64, scores: bool = False
    ) -> dict[str, Answers]:
        """Tasks of one specialist share its encoder."""
        found: dict[str, Answers] = {}
        for task in tasks:
            if task not in found:
                own = [other for other in tasks if self.store.file(other) == self.store.file(task)]
                wanted = any(self.wants_scores(other, scores) for other in own)
                with self._lock:
                    found.update(self.open(task).answer_tasks(own, rows, batch_size=batch_size, scores=wanted))
        return {task: self.finished(task, found[task], scores) for task in tasks}

    def to(self, device: torch.device | str) -> ResidualStore:
        self.model.to(device)
        return self

    def cost(self, tasks: Iterable[str] | None = None) -> Cost:
        """As many parameters as the store's bytes could hold in the dtype of the specialists' largest weight.

        tasks: of others, neither heads nor residuals count.
        """
        names = list(self.definitions if tasks is None else tasks)
        store, sizes = self.store, self.store.sizes
        largest = max(store.weights, key=store.weights.numel)
        size = torch_dtype(store.dtype_of(largest)).itemsize
        heads = {name: parameters_of(self.model.head(name)) for name in self.definitions}
        if tasks is None:
            stored = -(-sizes.total // size)
        else:
            files = dict.fromkeys(store.file(name) for name in names)
            weights = sizes.model + sizes.vector + sum(sizes.residuals[file] for file in files)
            stored = -(-weights // size) + sum(heads[name] for name in names)
        used = parameters_of(self.model.encoder) + max((heads[name] for name in names), default=0)
        return Cost(parameters_stored=stored, parameters_used=used)

    def write(self, folder: Path) -> None:
        """A copy of the store's files, with the facts that are known now."""
        for path in sorted(self.store.folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            elif path.name != MANIFEST:
                shutil.copyfile(path, folder / path.name)
        self.write_manifest(folder)

    @classmethod
    def read(cls, folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, object]) -> ResidualStore:
        return cls(Store.open(folder), facts)
