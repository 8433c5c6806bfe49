"""How a tree of stages is found: by choices that are learned, or by what copies give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.models.share.cka import debiased_cka
from allround.models.share.plan import Branching
from allround.models.share.tree import Tree, copies_of

#: Most copies of a stage, where nobody says how many.
MOST = 6
#: Rows that copies can be compared on at all.
FEWEST = 4
#: Rows of a batch, and the learning rate, when a stage is distilled.
DISTIL_ROWS, DISTIL_RATE = 32, 1e-3


def make_tree(plan: Branching, stages: Sequence[nn.Module], tasks: Sequence[str]) -> Tree:
    """The tree that a training begins with."""
    return ChosenTree(plan, stages, tasks) if plan.by == "choice" else GrownTree(plan, stages, tasks)


class SearchedTree(Tree):
    """A tree that training looks for. Tasks that come before it is found go where the first one goes."""

    def __init__(self, plan: Branching, stages: Sequence[nn.Module], tasks: Sequence[str], count: int) -> None:
        super().__init__(stages, [copies_of(stage, count - 1) for stage in stages])
        self.plan, self.tasks, self.count, self.share = plan, tuple(tasks), count, 0.0
        self.further: list[str] = []

    def add_tasks(self, names: Sequence[str]) -> None:
        self.further += [name for name in names if name not in self.tasks]

    def progressed(self, share: float) -> None:
        self.share = share

    def with_further(self, paths: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Paths, and those of tasks that came later."""
        return paths | dict.fromkeys(self.further, paths[self.tasks[0]])


class ChosenTree(SearchedTree):
    """Each copy of a stage, and each task, chooses one of the copies before it.

    At first all tasks share the encoder's own stages, and then every copy begins as what these learned. Each that
    chooses reads a mix of the copies, with weights that are drawn by a Gumbel softmax: nearly even at the first
    temperature, nearly one copy at the last. After `until` it is the most probable one. In evaluation it always is.
    """

    def __init__(self, plan: Branching, stages: Sequence[nn.Module], tasks: Sequence[str]) -> None:
        count = plan.copies or min(len(tasks), MOST)
        super().__init__(plan, stages, tasks, count)
        sizes = [*[count] * (len(stages) - 1), len(tasks)]
        # Of the copies of the second stage and later ones, then of the tasks.
        first = plan.prior * F.one_hot(torch.tensor(0), count)
        self.logits = nn.ParameterList([first.repeat(size, 1) for size in sizes])
        self.register_buffer("parted", torch.tensor(plan.shared == 0))

    def choices(self) -> list[nn.Parameter]:
        return list(self.logits)

    @property
    def draws(self) -> bool:
        """Whether training is where choices are drawn."""
        return self.plan.shared <= self.share < self.plan.until

    def paths(self) -> dict[str, tuple[int, ...]]:
        best = [logits.argmax(-1).tolist() for logits in self.logits]
        found = {}
        for place, task in enumerate(self.tasks):
            path = [best[-1][place]]
            for stage in reversed(range(len(self._stages) - 1)):
                path.append(best[stage][path[-1]])
            found[task] = tuple(reversed(path))
        return self.with_further(found)

    def progressed(self, share: float) -> None:
        super().progressed(share)
        if self.draws and not self.get_buffer("parted"):
            for stage, own in enumerate(self._stages):
                for number in range(1, self.count):
                    self.copy_of(stage, number).load_state_dict(own.state_dict())
            self.get_buffer("parted").fill_(True)

    def forward(self, values: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Before the first draw all paths go through the encoder's own stages."""
        if not self.training or not self.draws:
            return super().forward(values, tasks)
        read = values.unsqueeze(0).expand(self.count, *values.shape)
        for stage, logits in enumerate(self.logits):
            given = torch.stack([self.copy_of(stage, n)(read[n]) for n in range(self.count)])
            read = torch.einsum("ck,k...->c...", self.drawn(logits), given)
        places = {task: place for place, task in enumerate(self.tasks)}
        return {task: read[places.get(task, 0)] for task in tasks}

    def drawn(self, logits: Tensor) -> Tensor:
        """Weights of the copies to choose from, for each that chooses."""
        plan = self.plan
        done = (self.share - plan.shared) / (plan.until - plan.shared)
        return F.gumbel_softmax(logits, tau=plan.hot * (plan.cold / plan.hot) ** done)


class GrownTree(SearchedTree):
    """Each task has copies of its own at first; from the first stage on, those that give alike things become one.

    Only tasks that go through the same copies before a stage can share it. They are compared on rows of the last
    batches. Until then a further loss draws what they give together.
    """

    def __init__(self, plan: Branching, stages: Sequence[nn.Module], tasks: Sequence[str]) -> None:
        super().__init__(plan, stages, tasks, len(tasks))
        # Buffers, so that the state of a training that is kept, or goes on, has the tree that it had.
        self.register_buffer("numbers", torch.arange(len(tasks)).repeat(len(stages), 1))
        self.register_buffer("grown", torch.tensor(0))
        self._rows: list[Tensor] = []
        self._apart: dict[str, Tensor] = {}

    def paths(self) -> dict[str, tuple[int, ...]]:
        table = self.get_buffer("numbers").T.tolist()
        return self.with_further({task: tuple(path) for task, path in zip(self.tasks, table, strict=True)})

    def forward(self, values: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        stage, paths = int(self.get_buffer("grown")), self.paths()
        made = self.along(values, [paths[task] for task in tasks])
        if self.training and stage < len(self._stages):
            self._rows.append(values.detach())
            while sum(map(len, self._rows[1:])) >= self.plan.rows:
                del self._rows[0]
            if self.plan.align and len(values) >= FEWEST:
                self._apart = {task: self.apart(made, paths[task], stage) for task in tasks}
        return {task: made[paths[task]] for task in tasks}

    def apart(self, made: Mapping[tuple[int, ...], Tensor], path: tuple[int, ...], stage: int) -> Tensor:
        """How far what a task's copy of a stage gives is from what those of its siblings give: the mean of 1 - CKA."""
        siblings = {other[: stage + 1] for other in self.paths().values() if other[:stage] == path[:stage]}
        own, found = made[path[: stage + 1]], []
        for sibling in sorted(siblings - {path[: stage + 1]}):
            with torch.no_grad():  # each is drawn to the others by its own task's rows
                given = self.copy_of(stage, sibling[-1])(made[path[:stage]])
            found.append(1 - debiased_cka(own.flatten(1), given.flatten(1)))
        return torch.stack(found).mean() if found else own.new_zeros(())

    def penalty(self, task: str) -> Tensor | None:
        apart = self._apart.pop(task, None)
        return None if apart is None else self.plan.align * apart

    def progressed(self, share: float) -> None:
        """The phases before a comparison become longer from stage to stage, as in the authors' code."""
        self.share = share
        stage = int(self.get_buffer("grown"))
        due = stage < len(self._stages) and share >= self.plan.until * ((stage + 1) / len(self._stages)) ** 2
        if due and sum(map(len, self._rows)) >= FEWEST:
            self.compare(stage, torch.cat(self._rows)[-self.plan.rows :])
            self.get_buffer("grown").add_(1)

    @torch.no_grad()
    def compare(self, stage: int, rows: Tensor) -> None:
        """Let tasks that share all that is before a stage share it too, where their copies of it give alike things."""
        training, numbers = self.training, self.get_buffer("numbers")
        self.eval()
        before = [tuple(path[:stage]) for path in numbers.T.tolist()]
        for path in dict.fromkeys(before):
            members = [place for place, other in enumerate(before) if other == path]
            values = rows
            for earlier, number in enumerate(path):
                values = self.copy_of(earlier, number)(values)
            own = [self.copy_of(stage, int(numbers[stage, place])) for place in members]
            given = [one(values) for one in own]
            flat = [one.flatten(1).double() for one in given]
            similar = torch.tensor([[float(debiased_cka(a, b)) for b in flat] for a in flat])
            for group in groups_of(similar, self.plan.threshold):
                if len(group) > 1:
                    _average([own[n] for n in group])
                    distil(own[group[0]], values, [given[n] for n in group], self.plan.distil)
                for n in group:
                    numbers[stage, members[n]] = numbers[stage, members[group[0]]]
        self.train(training)


def groups_of(similar: Tensor, threshold: float) -> list[list[int]]:
    """Groups whose mean similarity to each other is at least a threshold: the two most similar ones join, again and
    again.

    >>> groups_of(torch.tensor([[1.0, 0.2, 0.9], [0.2, 1.0, 0.3], [0.9, 0.3, 1.0]]), 0.8)
    [[0, 2], [1]]
    """
    groups = [[n] for n in range(len(similar))]
    while len(groups) > 1:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a + 1, len(groups))]
        means = [float(similar[groups[a]][:, groups[b]].mean()) for a, b in pairs]
        best = max(range(len(pairs)), key=means.__getitem__)
        if means[best] < threshold:
            break
        a, b = pairs[best]
        groups[a] = sorted(groups[a] + groups.pop(b))
    return groups


def _average(modules: Sequence[nn.Module]) -> None:
    """Give the first module the mean of the weights of all."""
    states = [module.state_dict() for module in modules]
    every = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    modules[0].load_state_dict({n: v.mean(0) if v.is_floating_point() else v[0] for n, v in every.items()})


@torch.enable_grad()
def distil(module: nn.Module, values: Tensor, targets: Sequence[Tensor], passes: int) -> None:
    """Train a module to give what several others gave on the same rows, each through a gate on its channels.

    values: what it reads, (n, ...). targets: what the others gave, (n, channels, ...). passes: over the rows. A gate is
    squeeze and excite (Hu et al., CVPR 2018) of what the module gives, and begins at one.
    """
    student, channels = deepcopy(module), targets[0].shape[1]
    gates = [_gate(channels).to(values.device) for _ in targets]
    optimiser = torch.optim.Adam([p for one in (student, *gates) for p in one.parameters()], DISTIL_RATE)
    for _ in range(passes):
        for some in torch.arange(len(values)).split(DISTIL_ROWS):
            given = student(values[some])
            squeezed = given.flatten(2).mean(-1) if given.dim() > 2 else given
            losses = []
            for gate, target in zip(gates, targets, strict=True):
                opened = 2 * gate(squeezed).sigmoid()
                losses.append(F.mse_loss(given * opened.view(*opened.shape, *[1] * (given.dim() - 2)), target[some]))
            optimiser.zero_grad()
            torch.stack(losses).mean().backward()
            optimiser.step()
    module.load_state_dict(student.state_dict())


def _gate(channels: int) -> nn.Sequential:
    hidden = max(1, channels // 4)
    last = nn.Linear(hidden, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), last)
