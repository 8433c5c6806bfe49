"""A network behind the encoder: levels of modules, with a stream for each task, one for all, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from allround.models.share.mixture import SHARED, Mixture
from allround.models.share.plan import Level

#: Below this length what is left of a vector is noise: it is set to zero in place of being divided by its length.
TINY = 1e-6
#: A number with a smaller deviation is the same in all rows.
SAME = 1e-4
_AFTER: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": torch.relu, "tanh": torch.tanh}


class Network(nn.Module):
    """Vectors of the encoder in, vectors of each asked task out.

    widths: lengths of the vectors that come; those that do not have the first length get a linear layer of their own in
    front. Each number is standardised first, by a mean and a deviation that `standardise` sets.
    """

    def __init__(self, levels: Sequence[Level], widths: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.width = widths[0]
        self.entries = nn.ModuleDict({str(width): nn.Linear(width, self.width) for width in widths[1:]})
        for each in widths:
            self.register_buffer(f"mean{each}", torch.zeros(each))
            self.register_buffer(f"deviation{each}", torch.ones(each))
        self.mixtures = nn.ModuleList()
        width = self.width
        for level in levels:
            read = {"stream": width, "input": self.width, "input+stream": self.width + width}[level.modules_read]
            outputs = level.units or width
            gate = {"stream": width, "input": self.width, "outputs": outputs, "outputs+stream": outputs + width}
            further = int(level.residual == "weighed")
            self.mixtures.append(Mixture(level.mixing, read, outputs, gate[level.gate_reads], further))
            width = outputs
        self.outputs = width

    def standardise(self, values: Tensor) -> None:
        """Set mean and deviation of what comes to those of some vectors, (n, one of the widths)."""
        width = values.shape[-1]
        deviation = values.std(0) if len(values) > 1 else torch.ones(width)
        self.get_buffer(f"mean{width}").copy_(values.mean(0))
        # A number that is the same in all rows stays as it is.
        self.get_buffer(f"deviation{width}").copy_(torch.where(deviation > SAME, deviation, 1.0))

    def add_tasks(self, names: Sequence[str]) -> None:
        """Room for a group of tasks, which sees what is there already."""
        for number, mixture in enumerate(self._mixtures()):
            mixture.add_tasks(names, [*(names if self._gives_tasks(number) else ()), *self._streams(number)])

    def _mixtures(self) -> Iterator[Mixture]:
        for mixture in self.mixtures:
            assert isinstance(mixture, Mixture)
            yield mixture

    def _is_last(self, number: int) -> bool:
        return number == len(self.levels) - 1

    def _gives_tasks(self, number: int) -> bool:
        """Whether a level gives streams of the tasks."""
        level = self.levels[number]
        return self._is_last(number) or level.outputs != "owners" or level.mixing.owners != "shared"

    def _streams(self, number: int) -> list[str]:
        """The readers of a level beside the tasks that have no gate yet: of the shared stream, one gate for each of the
        modules that read it."""
        level, mixture = self.levels[number], self.mixtures[number]
        assert isinstance(mixture, Mixture)
        if self._is_last(number) or level.outputs == "tasks" or level.mixing.owners == "tasks" or mixture.gates.keys():
            return []
        following = self.levels[number + 1].mixing
        return [f"{SHARED}{place}" for place in range(following.shared if level.mixing.owners == "shared" else 1)]

    def forward(self, values: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """(n, one of the widths) -> the vectors of each task, (n, outputs)."""
        width = values.shape[-1]
        values = (values - self.get_buffer(f"mean{width}")) / self.get_buffer(f"deviation{width}")
        if width != self.width:
            values = self.entries[str(width)](values)
        streams: dict[str, Tensor] = {}
        for number, mixture in enumerate(self._mixtures()):
            streams = self._level(number, mixture, values, streams, tasks)
        return {task: streams[task] for task in tasks}

    def _level(
        self, number: int, mixture: Mixture, inputs: Tensor, streams: dict[str, Tensor], tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        level = self.levels[number]
        ended = {task for earlier in self.levels[:number] for task in earlier.ends}
        made: dict[str, Tensor] = {}

        def given(owner: str) -> Tensor:
            if owner not in made:
                read = inputs if level.modules_read == "input" else streams.get(owner, inputs)
                if level.modules_read == "input+stream":
                    read = torch.cat([inputs, read], -1)
                made[owner] = mixture.bank(owner)(read if read.dim() > inputs.dim() else read.unsqueeze(-2))
            return made[owner]

        found: dict[str, Tensor] = {}
        for reader in self._readers(number, mixture, tasks):
            if reader in ended:
                found[reader] = streams[reader]
                continue
            stream = streams.get(SHARED if reader.startswith(SHARED) else reader, inputs)
            if stream.dim() > inputs.dim():  # the shared stream of several modules
                stream = stream.mean(-2)
            found[reader] = self._mixed(level, mixture, reader, given, inputs, stream)
        shared = [found.pop(name) for name in list(found) if name.startswith(SHARED)]
        if shared:
            found[SHARED] = shared[0] if len(shared) == 1 else torch.stack(shared, -2)
        return found

    def _apart(self, number: int) -> bool:
        """Whether behind a level the stream of a task reaches no other."""

        def apart(later: int) -> bool:
            mixing = self.levels[later].mixing
            shared_stream = mixing.owners == "tasks+shared" and not self._is_last(later)
            return mixing.owners == "shared" or (mixing.sees != "all" and not shared_stream)

        return all(map(apart, range(number + 1, len(self.levels))))

    def _readers(self, number: int, mixture: Mixture, tasks: Sequence[str]) -> list[str]:
        """Whose streams a level gives: where others read them, also those of tasks that nobody asks for."""
        if self._is_last(number):
            return list(tasks)
        asked = set(tasks)
        every = not self._apart(number)
        return [name for name in mixture.gates if every or name in asked or name.startswith(SHARED)]

    def _mixed(
        self,
        level: Level,
        mixture: Mixture,
        reader: str,
        given: Callable[[str], Tensor],
        inputs: Tensor,
        stream: Tensor,
    ) -> Tensor:
        """What a reader's gate makes of the modules of a level."""
        stack = torch.cat([given(owner) for owner in mixture.visible[reader]], -2)
        if level.orthogonal:
            stack = orthonormal(stack)
        if level.residual == "weighed":
            stack = torch.cat([stack, stream.unsqueeze(-2)], -2)
        read = {"stream": stream, "input": inputs, "outputs": stack}.get(level.gate_reads)
        gate = mixture.gate(reader)
        weights = gate(torch.cat([stack.mean(-2), stream], -1) if read is None else read)
        mixed = (stack * (weights if gate.channels else weights.unsqueeze(-1))).sum(-2)
        return _AFTER[level.after](mixed + stream if level.residual == "stream" else mixed)

    def own(self, task: str) -> dict[str, nn.Parameter]:
        """The parameters that only a task uses: those of levels behind which no module reads its stream."""
        found: dict[str, nn.Parameter] = {}
        for number, mixture in enumerate(self._mixtures()):
            own = mixture.own(task, last=self._apart(number))
            found |= {f"mixtures.{number}.{name}": p for name, p in own.items()}
        return found


def orthonormal(vectors: Tensor) -> Tensor:
    """Gram-Schmidt over the vectors of each row: (*, k, d) -> (*, k, d), orthogonal and of length 1.

    A vector that depends on those before it becomes zero (the authors' code of MOORE divides by its length of about 0).

    >>> orthonormal(torch.tensor([[3.0, 0.0], [1.0, 1.0], [2.0, 2.0]])).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    found: list[Tensor] = []
    for vector in vectors.unbind(-2):
        length = vector.norm(dim=-1, keepdim=True)
        for other in found:
            vector = vector - (vector * other).sum(-1, keepdim=True) * other
        left = vector.norm(dim=-1, keepdim=True)
        independent = left > TINY * length.clamp_min(TINY)
        # Where nothing is left, the gradient must not pass through a division by it.
        found.append(torch.where(independent, vector / torch.where(independent, left, torch.ones_like(left)), 0.0))
    return torch.stack(found, -2)
