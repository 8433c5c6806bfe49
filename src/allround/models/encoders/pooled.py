"""An encoder whose kernels each task takes from pools, so that a task is little more than numbers of entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.registry import method
from allround.models.base import load_encoder
from allround.models.batch import Batch, Features
from allround.models.encoder import CONFIG, Encoder, load_tensors, save_tensors
from allround.models.named import NamedModules
from allround.models.wrapping import Wrapping, side_by_side

#: Where the inner encoder lies in the folder, and the pools and what tasks have of their own.
INNER, ADDED = "inner", "pooled.safetensors"
#: Numbers in a kernel of a linear layer, at most.
PIECE = 8


class TaskWeights(nn.Module):
    """What a task has of its own.

    chosen: for each layer the entry of its pool that each kernel is (int16). rest: biases, scales and running means.
    search: while the task learns, the weights that are moved; what is used of each kernel is the entry nearest to it.
    """

    def __init__(self, chosen: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.chosen, self.rest = nn.Module(), nn.Module()
        self.search: nn.ParameterDict | None = None
        for layer, value in chosen.items():
            self.chosen.register_buffer(_key(layer), value.clone())
        for name, value in rest.items():
            learned = isinstance(value, nn.Parameter)
            copied = value.detach().clone()
            if learned:
                self.rest.register_parameter(_key(name), nn.Parameter(copied))
            else:
                self.rest.register_buffer(_key(name), copied)

    def tensors(self) -> dict[str, Tensor]:
        """`rest` by the names of the inner encoder."""
        return {_name(key): value for key, value in [*self.rest.named_parameters(), *self.rest.named_buffers()]}


@method(
    source="Neural Weight Search: models/quantizer.py and README.md of JianJiangKCL/NeuralWeightSearch",
    paper="Neural Weight Search for Scalable Task Incremental Learning",
)
class Pooled(Wrapping):
    """Another encoder, whose layers have pools of kernels that never change.

    A kernel is what connects two channels of a convolution, or up to 8 numbers of a row of a linear layer. Each task
    has, of each linear layer and convolution, the number of an entry for each kernel, and biases, scales and running
    means of its own. All else, such as embeddings, is the inner encoder's.

    Formula: while a task learns, w = s + stop(q - s), with s the weights that are moved and q the nearest entries; to
    the loss is added `commitment` times the mean over layers of mean (s - q)^2

    sizes: the number of entries and their length, by layer. tasks: those that there is room for.
    """

    name = "pooled"

    def __init__(
        self,
        inner: Encoder,
        sizes: Mapping[str, Sequence[int]],
        tasks: Sequence[str] = (),
        *,
        commitment: float = 0.5,
    ) -> None:
        super().__init__()
        self.inner, self.commitment = inner.eval(), commitment
        self.pools = nn.Module()
        for layer, (entries, length) in sizes.items():
            self.pools.register_buffer(_key(layer), torch.zeros(entries, length))
        self.own_weights = NamedModules()
        #: Tasks whose own weights learn; None for all.
        self.learns: tuple[str, ...] | None = None
        self._gaps: dict[str, Tensor] = {}
        for task in tasks:
            self.add_task(task)

    @classmethod
    def around(cls, inner: Encoder, entries: int, *, commitment: float = 0.5, seed: int = 0) -> Pooled:
        """Pools of an encoder's own kernels: their centres by k-means, or all kernels of a layer with few of them."""
        from sklearn.cluster import MiniBatchKMeans

        found: dict[str, Tensor] = {}
        for layer, weight in kernels_of(inner).items():
            if len(weight) > entries:
                means = MiniBatchKMeans(entries, n_init=1, max_iter=20, random_state=seed).fit(weight.cpu().numpy())
                weight = torch.from_numpy(means.cluster_centers_).to(weight)
            found[layer] = weight.clone()
        made = cls(inner, {layer: tuple(pool.shape) for layer, pool in found.items()}, commitment=commitment)
        made.pools.load_state_dict({_key(layer): pool for layer, pool in found.items()})
        return made.to(next(inner.parameters()).device)

    # -- tasks -------------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[str]:
        return [_name(key) for key, _ in self.pools.named_buffers()]

    def pool(self, layer: str) -> Tensor:
        return self.pools.get_buffer(_key(layer))

    def of_task(self, task: str) -> TaskWeights:
        return cast(TaskWeights, self.own_weights[task])

    def add_task(self, task: str) -> None:
        """Room for a task, which begins as the last one is, or with the entries nearest to the inner encoder."""
        if task in self.own_weights:
            return
        if self.own_weights:
            last = self.of_task(list(self.own_weights)[-1])
            chosen, rest = {_name(k): v for k, v in last.chosen.named_buffers()}, last.tensors()
        else:
            kernels = kernels_of(self.inner)
            chosen = {layer: nearest(kernels[layer], self.pool(layer)) for layer in self.layers}
            pooled = {f"{layer}.weight" for layer in self.layers}
            rest = {n: p for n, p in self.inner.named_parameters() if p.dim() <= 1 and n not in pooled}
            rest |= dict(self.inner.named_buffers())
        self.own_weights[task] = TaskWeights(chosen, rest)

    def search(self, task: str) -> None:
        """Let a task learn, from where it is."""
        kernels = {layer: self.pool(layer)[chosen.long()] for layer, chosen in self._chosen(task).items()}
        self.of_task(task).search = nn.ParameterDict({_key(n): nn.Parameter(k.clone()) for n, k in kernels.items()})

    @torch.no_grad()
    def settle(self, task: str) -> None:
        """Keep what a task has learned as numbers of entries."""
        own = self.of_task(task)
        assert own.search is not None
        for layer, chosen in self._chosen(task).items():
            chosen.copy_(nearest(own.search[_key(layer)], self.pool(layer)))
        own.search = None
        self._gaps.pop(task, None)

    def _chosen(self, task: str) -> dict[str, Tensor]:
        return {_name(key): value for key, value in self.of_task(task).chosen.named_buffers()}

    def weights(self, task: str) -> dict[str, Tensor]:
        """The weights of the inner encoder for a task, by name."""
        own, shapes = self.of_task(task), dict(self.inner.named_parameters())
        found, gaps = own.tensors(), []
        for layer, chosen in self._chosen(task).items():
            pool = self.pool(layer)
            if own.search is None:
                kernels = pool[chosen.long()]
            else:
                moved = own.search[_key(layer)]
                entries = pool[nearest(moved, pool).long()]
                kernels = moved + (entries - moved).detach() if self.training else entries
                gaps.append((moved - entries).square().mean())
            found[f"{layer}.weight"] = kernels.reshape(shapes[f"{layer}.weight"].shape)
        if gaps:
            self._gaps[task] = self.commitment * torch.stack(gaps).mean()
        return found

    # -- what an encoder does ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Features:
        """Features of a batch; where rows are asked for several tasks, those of all tasks side by side."""
        tasks = tuple(batch.rows)
        every = [functional_call(self.inner, self.weights(task), (batch,)) for task in tasks]
        return side_by_side(every, tasks)

    def penalties(self) -> dict[str, dict[str, Tensor]]:
        return {task: {"commitment": gap} for task, gap in self._gaps.items()} if self.training else {}

    def own(self, task: str) -> dict[str, nn.Parameter]:
        return {f"own_weights.{task}.{name}": p for name, p in self.of_task(task).named_parameters()}

    def frozen(self) -> set[int]:
        """All but the own weights of tasks that learn: without a search these are biases and scales."""
        learning = tuple(self.own_weights) if self.learns is None else self.learns
        moved = {id(p) for task in learning for p in self.own(task).values()}
        return {id(p) for p in self.parameters() if id(p) not in moved}

    @property
    def bytes(self) -> int:
        """Bytes of pools, numbers of entries, and what tasks have of their own."""
        return sum(value.numel() * value.element_size() for value in self._added().state_dict().values())

    def _added(self) -> nn.ModuleDict:
        kept = NamedModules()
        for task in self.own_weights:  # without a search
            kept[task] = nn.ModuleDict({"chosen": self.of_task(task).chosen, "rest": self.of_task(task).rest})
        return nn.ModuleDict({"pools": self.pools, "tasks": kept})

    def save(self, folder: Path) -> None:
        (folder / INNER).mkdir()
        self.inner.save(folder / INNER)
        save_tensors(self._added(), folder / ADDED)
        sizes = {layer: list(self.pool(layer).shape) for layer in self.layers}
        settings = {"sizes": sizes, "tasks": list(self.own_weights), "commitment": self.commitment}
        write_json(folder / CONFIG, {"encoder": self.name, "settings": settings})

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Pooled:
        try:
            given = settings["sizes"], settings["tasks"], settings["commitment"]
            encoder = cls(load_encoder(folder / INNER), given[0], given[1], commitment=given[2])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AllroundError(
                f"load the encoder in {folder}", f"{CONFIG} is damaged: {error}", "copy the folder again, whole"
            ) from error
        load_tensors(encoder._added(), folder / ADDED)
        return encoder


def kernels_of(encoder: Encoder) -> dict[str, Tensor]:
    """The kernels of each linear layer and convolution, (kernels, length)."""
    found = {}
    for layer, module in encoder.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight = module.weight.detach()
            width = weight[0].numel()
            length = weight[0, 0].numel()
            if length == 1:
                length = max(n for n in range(1, PIECE + 1) if width % n == 0)
            found[layer] = weight.reshape(-1, length)
    return found


def nearest(kernels: Tensor, pool: Tensor) -> Tensor:
    """The number of the entry of a pool that is nearest to each kernel. Shapes: (n, d), (k, d) -> (n,) int16.

    >>> nearest(torch.tensor([[0.1], [0.9]]), torch.tensor([[1.0], [0.0]])).tolist()
    [1, 0]
    """
    with torch.no_grad():  # |x - p|^2 up to |x|^2
        return (pool.square().sum(1) - 2 * F.linear(kernels, pool)).argmin(1).to(torch.int16)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
