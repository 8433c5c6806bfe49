"""A tree of copies of an encoder's stages: which copy of each a task goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import cast

from torch import Tensor, nn


class Tree(nn.Module, ABC):
    """Copies of each stage; the first is the encoder's own, and no part of the tree.

    copies: those of each stage beside the encoder's own.
    """

    def __init__(self, stages: Sequence[nn.Module], copies: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self._stages = tuple(stages)
        self.copies = nn.ModuleList([nn.ModuleList(some) for some in copies])

    def train(self, mode: bool = True) -> Tree:
        for stage in self._stages:
            stage.train(mode)
        super().train(mode)
        return self

    def copy_of(self, stage: int, number: int) -> nn.Module:
        """A copy of a stage; 0 is the encoder's own."""
        return cast(nn.ModuleList, self.copies[stage])[number - 1] if number else self._stages[stage]

    @abstractmethod
    def paths(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the copies that a task goes through, from the first stage on."""

    @abstractmethod
    def add_tasks(self, names: Sequence[str]) -> None:
        """Give further tasks a path; those that have one keep it."""

    def choices(self) -> list[nn.Parameter]:
        """The parameters that choose between copies."""
        return []

    def progressed(self, share: float) -> None:
        """Told how much of the training is done."""

    def penalty(self, task: str) -> Tensor | None:
        """What the last forward pass adds to the loss of a task."""
        return None

    def forward(self, values: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """What the last stage gives to tasks."""
        paths = self.paths()
        made = self.along(values, [paths[task] for task in tasks])
        return {task: made[paths[task]] for task in tasks}

    def along(self, values: Tensor, paths: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """What the copies along some paths give, by the part of the path behind them. Paths that begin alike share the
        work."""
        made: dict[tuple[int, ...], Tensor] = {(): values}
        for path in paths:
            for end in range(1, len(path) + 1):
                if path[:end] not in made:
                    made[path[:end]] = self.copy_of(end - 1, path[end - 1])(made[path[: end - 1]])
        return made

    def found(self) -> FoundTree:
        """The tree as it is now, with the copies that a task goes through and no others.

        Where no task goes through a stage of the encoder's own, that takes the weights of the first copy in use.
        """
        paths = self.paths()
        kept: list[list[nn.Module]] = []
        places: list[dict[int, int]] = []
        for stage, own in enumerate(self._stages):
            used = sorted({path[stage] for path in paths.values()})
            if used[0]:
                own.load_state_dict(self.copy_of(stage, used[0]).state_dict())
            kept.append([self.copy_of(stage, number) for number in used[1:]])
            places.append({number: place for place, number in enumerate(used)})
        renamed = {task: [places[stage][n] for stage, n in enumerate(path)] for task, path in paths.items()}
        return FoundTree(self._stages, renamed, kept)

    def lines(self) -> list[str]:
        """A line for each stage: which tasks go through the same copy."""
        paths, found = self.paths(), []
        for stage in range(len(self._stages)):
            groups: dict[int, list[str]] = {}
            for task, path in paths.items():
                groups.setdefault(path[stage], []).append(task)
            found.append(f"stage {stage + 1}: " + ", ".join(f"{{{', '.join(group)}}}" for group in groups.values()))
        return found


class FoundTree(Tree):
    """A tree that stays as it is.

    paths: the copies that each task goes through. copies: those beside the encoder's own; where they are not given they
    begin as the encoder's own.

    >>> FoundTree([nn.Linear(1, 1), nn.Linear(1, 1)], {"a": (0, 0), "b": (0, 1)}).lines()
    ['stage 1: {a, b}', 'stage 2: {a}, {b}']
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        paths: Mapping[str, Sequence[int]],
        copies: Sequence[Sequence[nn.Module]] | None = None,
    ) -> None:
        counts = [max(path[stage] for path in paths.values()) for stage in range(len(stages))]
        if copies is None:
            copies = [copies_of(stage, count) for stage, count in zip(stages, counts, strict=True)]
        super().__init__(stages, copies)
        self._paths = {task: tuple(path) for task, path in paths.items()}

    def paths(self) -> dict[str, tuple[int, ...]]:
        return self._paths

    def add_tasks(self, names: Sequence[str]) -> None:
        """Further tasks go where most do."""
        (most, _), *_ = Counter(self._paths.values()).most_common(1)
        self._paths |= {name: most for name in names if name not in self._paths}

    def found(self) -> FoundTree:
        return self


def copies_of(stage: nn.Module, count: int) -> list[nn.Module]:
    """Copies of a stage, with its weights."""
    return [deepcopy(stage) for _ in range(count)]
