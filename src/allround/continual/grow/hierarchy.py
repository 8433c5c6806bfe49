"""hierarchy: prompts of four levels in front of a frozen transformer; each arrival has its own at one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from allround.continual.growing import GrowingLearner
from allround.continual.learning import set_head
from allround.continual.parts import UNSEEN, Part, mixes
from allround.continual.rows import ARRIVAL, joined
from allround.continual.strategy import Strategy
from allround.continual.stream import renamed
from allround.core.errors import AllroundError
from allround.core.registry import method
from allround.models.encoder import Encoder
from allround.models.encoders.prompted import Levels, Prompted, chosen
from allround.models.fitting import fit_head
from allround.models.running import batches
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.task import Task
from allround.training.settings import Settings


@method(source="Diana: Dai et al., Findings of ACL 2023, arXiv:2305.06555; diana/models/metat5.py of DAMO-ConvAI")
class Hierarchy(GrowingLearner):
    """A row reads a general prompt, that of the format of its task (the kind: classification, regression, ...), that of
    its arrival, and the meta prompts whose keys are near its query. Each arrival learns its own prompt, and with rows
    that are remembered of earlier ones all of them are learned further. Beside the parts of arrivals, a task of single
    labels has a part for rows that are of none of them: it has the prompt of the unseen tasks of its format, and learns
    on the rows of all arrivals.

    Keys of meta prompts learn before the prompts do, on the queries alone.

    general, format, task, meta: vectors in a prompt of each level. pool: meta prompts that there are. chosen: those
    that a row gets. steps, rate: of Adam, for keys; prompt_rate: of prompts, where the settings name none.
    Differs: the transformer is frozen, and a head for each arrival answers, where the authors tune a T5 that writes; an
    arrival's own prompt is read in all of its training, where they let the keys choose in more and more steps; there is
    no second pass over remembered rows alone. Prompts are shorter than theirs (10, 40, 40 and 20 vectors).

    Errors: an encoder that embeds no sequence; sizes below 1, or more chosen than there are.
    """

    def __init__(
        self,
        encoder: Encoder,
        strategy: Strategy,
        *,
        general: int = 2,
        format: int = 4,
        task: int = 8,
        meta: int = 4,
        pool: int = 30,
        chosen: int = 5,
        steps: int = 100,
        rate: float = 0.01,
        prompt_rate: float = 1e-2,
    ) -> None:
        super().__init__(encoder, strategy)
        if min(general, format, task, meta, chosen) < 1 or chosen > pool:
            raise AllroundError(
                "put prompts of four levels together",
                f"they have {general}, {format}, {task} and {meta} vectors, and {chosen} of {pool} are chosen",
                "give 1 vector or more to each, and choose 1 meta prompt up to all",
            )
        self.levels = Levels(general, format, task, meta, pool, chosen)
        self.key_steps, self.key_rate, self.rate = steps, rate, prompt_rate

    def extend(
        self, arrived: Mapping[str, Task], number: int, settings: Settings, *, seed: int, scratch: Path | None
    ) -> list[Part]:
        if not self.grown.bodies:
            self.grown.bodies.append(MultiTaskModel(Prompted(self.encoder, self.levels, self.rate), {}))
        (body,) = self.grown.bodies
        encoder = body.encoder
        assert isinstance(encoder, Prompted)
        for task in arrived.values():
            encoder.add_as(task.name, task.definition.kind, task.name)
        old = self.old_rows(body)
        tasks = [*arrived.values(), *old]
        self.learn_keys(encoder, tasks)
        for task in arrived.values():
            body.add_task(task.definition, fit_head(encoder, task).state)
        unseen = [self.for_unseen(body, name, task) for name, task in arrived.items() if mixes(task.definition)]
        self.train(body, [*tasks, *unseen], settings.with_(keep="last") if old else settings, seed=seed,
                   scratch=scratch)  # fmt: skip
        return [Part(name, number, 0, task.name) for name, task in arrived.items()]

    def old_rows(self, body: MultiTaskModel) -> list[Task]:
        """What is remembered of each part, as rows of its task."""
        found = []
        for part in self.grown.parts:
            whole = self.memory.tasks.get(part.task)
            if whole is None or part.arrival == UNSEEN:
                continue
            split = whole.splits["train"]
            own = [n for n, mark in enumerate(split.slices[ARRIVAL]) if str(mark).startswith(f"{part.arrival}: ")]
            if own:
                rows = replace(split.take(own), slices={})
                task = replace(whole, splits={**whole.splits, "train": rows, "validation": rows})
                found.append(renamed(task, part.name).as_defined(body.definition(part.name)))
        return found

    def for_unseen(self, body: MultiTaskModel, name: str, task: Task) -> Task:
        """The rows of all arrivals of a task, for its part that is for none of them; it gets a head of all labels."""
        encoder, own = body.encoder, f"{name}-unseen"
        assert isinstance(encoder, Prompted)
        definition = replace(self.grown.definitions[name], name=own, head="")
        rows = renamed(task, own).as_defined(definition)
        old = self.memory.tasks.get(name)
        if old is not None:
            kept = renamed(old, own).as_defined(definition).splits["train"]
            new = replace(rows.splits["train"], slices={}, rows=None, keys=())
            rows = replace(rows, splits={**rows.splits, "train": joined(new, replace(kept, slices={}))}, table=None)
        encoder.add_as(own, definition.kind, f"unseen {definition.kind}")
        if own in body.definitions:
            set_head(body, definition, body.head(own).stored())
        else:
            body.add_task(definition, fit_head(encoder, rows).state)
            self.grown.parts.append(Part(name, UNSEEN, 0, own))
        return rows

    def learn_keys(self, encoder: Prompted, tasks: list[Task]) -> None:
        """Train the keys of meta prompts on the queries of rows of tasks."""
        found = []
        encoder.eval()
        for task in tasks:
            prepared = encoder.prepare(task.splits["train"].inputs, task.definition)
            with torch.no_grad():
                for _, batch in batches(encoder, prepared, task.definition, 64):
                    encoder(batch)
                    found.append(encoder.frame.query)
        queries = torch.cat(found)
        keys = encoder.assembly.get_buffer("keys")
        learned = keys.clone().requires_grad_()
        optimiser = torch.optim.Adam([learned], lr=self.key_rate)
        for _ in range(self.key_steps):
            optimiser.zero_grad()
            pool_loss(queries, learned, self.levels.chosen).backward()
            optimiser.step()
        keys.copy_(F.normalize(learned.detach(), dim=1))


def pool_loss(queries: Tensor, keys: Tensor, count: int, margin: float = 0.15) -> Tensor:
    """The loss of the keys of meta prompts: queries (n, d) are to be near the keys that they take, and keys to be at
    least a margin apart. (n, d), (pool, d) -> ().

    Formula: 1 - mean cos(q, k) + sum_{i, j} max(0, cos(k_i, k_j) - (1 - margin)) / pool, for i other than j

    >>> keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> round(float(pool_loss(torch.tensor([[2.0, 0.0]]), keys, 1)), 4), round(float(pool_loss(
    ...     torch.tensor([[2.0, 0.0]]), keys, 1, margin=0.5)), 4)  # second: 2 x (0.1 + 0.3) / 3
    (0.0, 0.2667)
    """
    taken = chosen(queries, keys.detach(), count)
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    near = (queries @ keys.T).gather(1, taken).mean()
    apart = (keys @ keys.T - (1 - margin)).clamp_min(0) * (1 - torch.eye(len(keys), device=keys.device))
    return 1 - near + apart.sum() / len(keys)
