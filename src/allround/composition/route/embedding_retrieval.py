"""embedding_retrieval: a row goes to the module that has the nearest row among its training rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.composition.gating import owned
from allround.composition.modules.bank import ModuleBank
from allround.composition.router import Router, RouteRows, Seen, base_vectors, taken_state
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.core.seeds import seed_of


@method(
    source="Retrieval of Experts: Jang et al., ICML 2023, arXiv:2302.03202, section 3.2; joeljang/ELM",
    paper="Exploring the Benefits of Training Expert Language Models over Instruction Tuning",
    needs=("rows",),
)
class EmbeddingRetrieval(Router):
    """Keeps the base's vectors of up to `rows` training rows of each module, and gives a row the module of the one that
    is nearest by cosine.

    votes: above 0, the router is told the task, and each task has one module: the one that is nearest to most of
    `votes` further training rows of the task, as the paper does for a whole task (with 32).
    Differs: the base embeds the rows, and no further encoder; vectors are scaled to length 1.
    """

    name = "embedding_retrieval"
    mixes = False

    def __init__(self, *, rows: int = 100, votes: int = 0) -> None:
        super().__init__()
        if rows < 1 or votes < 0:
            raise AllroundError(f"keep {rows} rows of each module, and ask {votes} of each task",
                                "rows must be at least 1, and votes at least 0", "give such numbers")  # fmt: skip
        self.rows, self.votes = rows, votes
        self.told = votes > 0
        self.vectors = torch.empty(0, 0)
        self.owners = torch.empty(0)
        self.modules: dict[str, int] = {}

    def fit(self, bank: ModuleBank, tasks: Mapping[str, RouteRows], seed: int) -> None:
        super().fit(bank, tasks, seed)
        vectors, owners = [], []
        further: dict[str, Tensor] = {}
        groups = owned(tasks, "fit the router 'embedding_retrieval'")
        for name, rows in tasks.items():
            if not len(rows):
                continue
            generator = torch.Generator().manual_seed(seed_of(seed, "embedding_retrieval", name))
            found = F.normalize(base_vectors(bank, rows), dim=-1)[torch.randperm(len(rows), generator=generator)]
            # A module with several tasks keeps rows of each.
            kept = -(-self.rows // len(groups[rows.module])) if rows.module is not None else 0
            further[name] = found[kept : kept + self.votes]
            if rows.module is not None:
                vectors.append(found[:kept])
                owners.append(torch.full((len(vectors[-1]),), float(rows.module)))
        self.vectors, self.owners = torch.cat(vectors), torch.cat(owners)
        self.modules = {}
        for name, found in further.items() if self.told else ():
            if not len(found):
                raise AllroundError(
                    f"find the module of task '{name}' by {self.votes} of its training rows",
                    f"it has {len(tasks[name])}, and all of them are kept to compare with",
                    "lower rows, or give more training rows",
                )
            votes = torch.bincount(self._nearest(found), minlength=self.count)
            self.modules[name] = int(votes.argmax())

    def _nearest(self, vectors: Tensor) -> Tensor:
        """The module of the nearest row of each."""
        near = (vectors @ self.vectors.to(vectors.device).T).argmax(1)
        return self.owners.to(vectors.device)[near].long()

    def state(self) -> dict[str, Tensor]:
        tasks = {f"task.{name}": torch.tensor([number]) for name, number in self.modules.items()}
        return {"vectors": self.vectors, "owners": self.owners, **tasks}

    def restore(self, bank: ModuleBank, state: Mapping[str, Tensor]) -> None:
        self.count = len(bank)
        tasks = [name for name in state if name.startswith("task.")]
        rows = len(state.get("vectors", ()))
        shapes: dict[str, tuple[int | None, ...]] = {"vectors": (rows, None), "owners": (rows,)}
        self.vectors, self.owners, *numbers = taken_state(state, **shapes, **dict.fromkeys(tasks, (1,)))
        self.modules = {name.removeprefix("task."): int(n) for name, n in zip(tasks, numbers, strict=True)}
        if not all(0 <= number < self.count for number in [*self.owners.tolist(), *self.modules.values()]):
            raise ValueError("it names a module that is not there")

    def weights(self, seen: Seen) -> Tensor:
        found = seen.features.new_zeros(len(seen.features), self.count)
        if self.told:
            if seen.task in self.modules:
                found[:, self.modules[seen.task]] = 1
            return found
        return found.scatter_(1, self._nearest(F.normalize(seen.features, dim=-1))[:, None], 1.0)
