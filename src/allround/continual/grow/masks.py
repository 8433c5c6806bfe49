"""masks: layers that all arrivals share, of which each uses some units, chosen by what its description is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from allround.continual.dictionaries import Matrix, drawn_atoms, sparse_code, updated
from allround.continual.growing import GrowingLearner
from allround.continual.parts import Part
from allround.continual.strategy import Strategy
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of
from allround.models.encoder import Encoder
from allround.models.encoders.masked import Masked
from allround.models.fitting import fit_head
from allround.models.running import features_of
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.wrapping import width_of
from allround.tasks.definition import Definition
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.term import Term

if TYPE_CHECKING:
    from allround.models.model import Model

#: Numbers of a description that no encoder reads.
HASHED = 128


@method(
    source="CoTASP: Yang et al., ICML 2023, arXiv:2305.18444, section 4; jaxrl/dict_learning/task_dict.py and "
    "jaxrl/agents/sac/sac_learner.py of stevenyangyj/CoTASP",
    exact=True,
)
class Masks(GrowingLearner):
    """One body with an encoder `Masked`. The description of an arrival's task, as a vector, is written as a sum of few
    atoms of a dictionary for each layer; the atoms above zero are the units that the task uses. Then weights and codes
    learn in turns. Weights between units that earlier tasks use never change, so that what these answer stays as it was
    to the bit. In the end each dictionary is brought to write the description by the code that was learned.

    units: of each layer. penalty: on codes; larger ones use fewer units. weights, codes: steps of each turn. length: of
    atoms, at most.
    Differs: layers stand on the features of the base, and heads are those of tasks; the authors have one policy with a
    head for all, and an embedding of a hint by all-MiniLM-L12-v2. A description is the name, the labels and the
    instruction of a task, read by a base that reads texts; other bases have hashed letter n-grams.
    """

    def __init__(
        self,
        encoder: Encoder,
        strategy: Strategy,
        *,
        units: Sequence[int] = (512, 512),
        penalty: float = 0.001,
        weights: int = 45,
        codes: int = 5,
        length: float = 1.0,
    ) -> None:
        super().__init__(encoder, strategy)
        if not units or min(units) < 1 or penalty <= 0 or weights < 1 or codes < 0:
            raise AllroundError(
                "share units by masks",
                f"units is {tuple(units)}, penalty {penalty}, weights {weights} and codes {codes}",
                "give layers of 1 unit or more, a penalty above 0, 1 step or more of weights, and 0 or more of codes",
            )
        self.units, self.penalty, self.length = tuple(units), penalty, length
        self.turns = weights, codes
        #: Of each layer the atoms, and the descriptions of all tasks with their codes.
        self.dictionaries: dict[str, Tensor] = {}

    @property
    def remembered(self) -> dict[str, Tensor]:
        return self.dictionaries

    def recall(self, tensors: Mapping[str, Tensor]) -> None:
        self.dictionaries.update(tensors)

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        if not self.grown.bodies:
            width = width_of(self.encoder, next(iter(arrived.values())).definition)
            self.grown.bodies.append(MultiTaskModel(Masked(self.encoder, width, self.units), {}))
        (body,) = self.grown.bodies
        masked = body.encoder
        assert isinstance(masked, Masked)
        for name, task in arrived.items():
            held = HeldWeights(masked, self.turns)
            vector = self.described(name, task.definition)
            masked.add_task(task.name)
            for layer, code in enumerate(masked.of_task(task.name)):
                code.data.copy_(torch.from_numpy(self.written(vector, layer)))
            body.add_task(task.definition, fit_head(masked, task).state)
            masked.learns = (task.name,)
            self.train(body, [task], settings, seed=seed, scratch=scratch, terms=[held])
            for layer, code in enumerate(masked.of_task(task.name)):
                self.learn_from(code.detach().double().numpy(), vector, layer, seed_of(seed, task.name, layer))
        return [Part(name, number, 0, task.name) for name, task in arrived.items()]

    def described(self, name: str, definition: Definition) -> Matrix:
        """The description of a task as a vector of length 1."""
        text = " ".join([name, *definition.labels, definition.instruction or ""])
        if "text" in self.encoder.modalities:
            asked = Definition("description", "classification", ("text",), "text", "accuracy", ("0", "1"))
            rows = self.encoder.prepare([(text,)], asked)
            found = features_of(self.encoder, rows, asked).values[0].double().numpy()
        else:
            from sklearn.feature_extraction.text import HashingVectorizer

            hashed = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=HASHED)
            found = hashed.transform([text]).toarray()[0]
        vector: Matrix = found / max(np.linalg.norm(found), 1e-12)
        return vector

    def written(self, vector: Matrix, layer: int) -> Matrix:
        """The code of a description for a layer."""
        if f"atoms {layer}" not in self.dictionaries:
            random = np.random.default_rng(seed_of(0, "atoms", layer))
            atoms = drawn_atoms(self.units[layer], len(vector), self.length, random)
            self.dictionaries[f"atoms {layer}"] = torch.from_numpy(atoms)
        return sparse_code(vector, self.dictionaries[f"atoms {layer}"].numpy(), self.penalty)

    def learn_from(self, code: Matrix, vector: Matrix, layer: int, seed: int) -> None:
        """Bring a dictionary to write a description by a code, and all earlier ones by theirs."""
        for what, one in (("codes", code), ("vectors", vector)):
            old = self.dictionaries.get(f"{what} {layer}", torch.zeros(0, len(one), dtype=torch.float64))
            self.dictionaries[f"{what} {layer}"] = torch.cat([old, torch.from_numpy(one)[None]])
        atoms, vectors, codes = (self.dictionaries[f"{what} {layer}"].numpy() for what in ("atoms", "vectors", "codes"))
        made = updated(atoms, vectors, codes, self.length, np.random.default_rng(seed))
        self.dictionaries[f"atoms {layer}"] = torch.from_numpy(made)


class HeldWeights(Term):
    """Weights and codes of a `Masked` encoder learn in turns, and those between units of earlier tasks not at all.

    masked: as it is before the new task. turns: steps of weights, and then of codes.
    """

    def __init__(self, masked: Masked, turns: tuple[int, int]) -> None:
        super().__init__()
        self.turns = turns
        used = [torch.zeros(size, dtype=torch.bool) for size in masked.units]
        for task in masked.codes:
            used = [a | b.cpu() for a, b in zip(used, masked.masks(task), strict=True)]
        self._free: dict[str, Tensor] = {}
        for layer, units in enumerate(used):
            before = used[layer - 1] if layer else torch.ones(1, dtype=torch.bool)
            self._free[f"encoder.layers.{layer}.weight"] = ~(units[:, None] & before[None])
            self._free[f"encoder.layers.{layer}.bias"] = ~units
        self._old: dict[str, Tensor] = {}

    def before(self, model: Model, tasks: Sequence[Task]) -> None:
        shared = model.shared()
        self._old = {name: shared[name].detach().clone() for name in self._free}
        self.state = {"steps": {"": torch.zeros(1)}}

    def edit(self, model: Model) -> None:
        weights, codes = self.turns
        steps = self.state["steps"][""]
        of_codes = int(steps) % (weights + codes) >= weights
        steps += 1
        for name, parameter in model.named_parameters():
            if (".codes." in name) != of_codes:
                parameter.grad = None
            elif name in self._free and parameter.grad is not None:
                parameter.grad *= self._free[name].to(parameter.grad)

    @torch.no_grad()
    def stepped(self, model: Model) -> None:
        shared = model.shared()
        for name, free in self._free.items():
            shared[name].copy_(torch.where(free.to(shared[name].device), shared[name], self._old[name]))
