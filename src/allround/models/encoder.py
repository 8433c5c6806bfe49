"""What an encoder must do: turn rows into features that linear heads read."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_json
from allround.models.batch import Batch, Features
from allround.models.shrinking.anatomy import Anatomy, Kept
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.values import Row

#: The head of a task that nothing else was asked for, and for which the encoder has none of its own.
LINEAR = "linear"
#: The file beside the weights that says which encoder wrote them.
CONFIG = "allround_encoder.json"


class RowReader(Protocol):
    """What an encoder does apart from its weights: it makes batches of rows, and says how long features are."""

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def preparation(self) -> object: ...
    def features(self, definition: Definition) -> int: ...
    def reads_apart(self, definition: Definition) -> bool: ...
    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Any]: ...
    def collate(self, prepared: Sequence[Any], definition: Definition, targets: Encoded | None = None) -> Batch: ...
    def prepare_passages(self, texts: Sequence[str], definition: Definition) -> list[Any]: ...
    def length(self, prepared: Any) -> int: ...
    def common(self, values: Tensor) -> Tensor: ...
    def cut(self, inputs: Sequence[Row], definition: Definition) -> int: ...


class Encoder(nn.Module, ABC):
    """Rows in, features out.

    `prepare` does the work that needs doing once a row (tokenising, decoding an image); `collate` stacks what
    it made; `forward` gives features, a vector for each row or for each word of each row. It may look at the task that
    the batch belongs to.
    """

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]
    learning_rate: float = 1e-3
    epochs: int = 3
    #: Learning rate of low-rank changes; None for four times that of all weights.
    lora_rate: float | None = None
    #: Rank of low-rank changes.
    lora_rank: int = 8
    #: Steps that a training has at least, where nobody says how many epochs; few rows are seen more often.
    least_steps: int = 0
    #: Rows of each task in a step of a learned merge; None for as many as the merge says.
    learn_batch: int | None = None
    #: Whether what was tuned by low-rank changes is stored as these alone, beside the base.
    keeps_adapters: ClassVar[bool] = False
    #: Whether it gives each task features of its own.
    by_task: ClassVar[bool] = False
    #: Whether it can be tuned, or be the base of modules.
    tunable: ClassVar[bool] = True
    #: What heads may read of it, as their files declare.
    gives: ClassVar[tuple[str, ...]] = ("vectors",)
    #: Of one that is pretrained on the spot, sizes that a build may try: settings of `create` by name, its own first.
    sizes: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    #: What a user should know of the files that it was loaded from.
    notes: Sequence[str] = ()

    @abstractmethod
    def features(self, definition: Definition) -> int:
        """The length of a feature vector for a task."""

    @property
    @abstractmethod
    def preparation(self) -> object:
        """Plain data, all that `prepare` depends on beside its arguments: encoders with equal ones prepare alike."""

    def content(self) -> str:
        """A hash of what features depend on beside the row: weights, and how rows are prepared."""
        return hash_json([self.name, hash_tensors(self), self.preparation])

    @abstractmethod
    def prepare(self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None) -> list[Any]:
        """What can be done once for each row. targets: encoded, for encoders whose rows hold the answer in training."""

    @abstractmethod
    def collate(self, prepared: Sequence[Any], definition: Definition, targets: Encoded | None = None) -> Batch:
        """Stack prepared rows. targets: encoded, of all of them, where losses are wanted."""

    @abstractmethod
    def forward(self, batch: Batch) -> Features:
        """Features of a batch."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and configuration into an existing folder."""

    def save_beside(self, folder: Path, encoder: str, heads: Sequence[nn.Module]) -> None:
        """Write what lets another library load the folder of a model with these heads, where there is one that can.

        encoder: the name of the folder in it that `save` wrote into.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Encoder:
        """Read what `save` wrote, or what the encoder's own library writes; into float32, whatever it is stored as."""

    def default_head(self, definition: Definition) -> str:
        """The sort of head that answers a task, where none was asked for."""
        return LINEAR

    def head(self, definition: Definition) -> str:
        """The sort of head that answers a task."""
        return definition.head or self.default_head(definition)

    def reads_apart(self, definition: Definition) -> bool:
        """Whether it reads the two texts of a task's rows apart: its features begin with a vector of each."""
        return False

    def headed(self, definition: Definition, sort: str) -> Definition:
        """A task's definition with the sort of its head, where that is not what the encoder would choose."""
        return definition if self.head(definition) == sort else replace(definition, head=sort)

    def entries(self, prepared: Sequence[Any], definition: Definition, targets: Encoded) -> list[int]:
        """How many single losses each prepared row has: one, or one for each word."""
        return [len(target) for target in targets] if kind(definition.kind).per_token else [1] * len(prepared)

    def prepare_passages(self, texts: Sequence[str], definition: Definition) -> list[Any]:
        """Passages of a task prepared as rows of one text. Errors: an encoder that reads no texts."""
        raise AllroundError(
            f"read the passages of task '{definition.name}' with encoder '{self.name}'",
            "it cannot read passages apart from queries",
            "use a text encoder as the --base, such as all-MiniLM-L6-v2",
        )

    def token_choice(self, definition: Definition) -> Definition | None:
        """Where a task's answers are written: the choice of each token among some, as a task; else None."""
        return None

    def token_rows(
        self, inputs: Sequence[Row], definition: Definition, targets: Encoded | None = None
    ) -> list[tuple[Any, tuple[int, ...]]]:
        """Rows of a task whose answers are written, prepared for the task that `token_choice` gives.

        The tokens are those of the answers that this encoder writes, or of the right ones where targets are given; at
        each of them the choice is among those that it finds most probable. With each row stand the numbers of its
        answer's tokens among the choices; none where the answer is empty.
        """
        raise NotImplementedError(f"the encoder '{self.name}' writes no answers")

    def adapted_layers(self) -> list[str]:
        """The layers of the backbone that low-rank changes are added to."""
        return [n for n, m in self.backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]

    def frozen(self) -> set[int]:
        """The ids of parameters that training leaves as they are."""
        return set()

    @property
    def numbers(self) -> int:
        """How many numbers it keeps."""
        return sum(p.numel() for p in self.parameters())

    def at_size(self, size: int) -> Encoder:
        """An encoder with the same weights that gives the first `size` numbers of its vectors. Errors: not for text; no
        such size."""
        raise AllroundError(
            f"cut the vectors of the encoder '{self.name}' to {size} numbers",
            "it gives vectors of one length",
            "use a text encoder, such as all-MiniLM-L6-v2, trained with the term matryoshka",
        )

    # -- of encoders whose weights can be left out, so that something else computes features ---------------------------

    def write_rows(self, folder: Path) -> tuple[str, dict[str, object]]:
        """Write what `rows_from` needs into a folder; the encoder that has it, by name, and settings for it.
        Errors: an encoder that cannot do without its weights."""
        raise AllroundError(
            f"write the encoder '{self.name}' as a graph",
            "it reads rows in a way that no graph can hold",
            "export a model of texts, images or tables; language models are served by `allround serve`",
        )

    @classmethod
    def rows_from(cls, folder: Path, settings: Mapping[str, Any]) -> RowReader:
        """What reads rows as the encoder did that wrote this folder by `write_rows`."""
        raise NotImplementedError(f"the encoder '{cls.name}' cannot do without its weights")

    # -- of encoders of which parts can be removed ---------------------------------------------------------------------

    def anatomy(self, length: float) -> Anatomy:
        """The parts of the backbone that can be removed, while features keep their length. length: of a row, on
        average, as `length` gives it. Errors: an encoder without such parts."""
        raise AllroundError(
            f"shrink the encoder '{self.name}'",
            "parts of it cannot be removed",
            "give a model of texts whose base is a transformer, or one with the base small_image",
        )

    def smaller(self, kept: Kept) -> Encoder:
        """A trained copy of the same sort that keeps only these of the parts that `anatomy` names."""
        raise NotImplementedError(f"parts of the encoder '{self.name}' cannot be removed")

    # -- of encoders with parts that belong to tasks -------------------------------------------------------------------

    def add_task(self, task: str) -> None:
        """Make room for a task, where the encoder has parts of each task's own."""

    def own(self, task: str) -> dict[str, nn.Parameter]:
        """The parameters that belong to one task alone, by name."""
        return {}

    def added(self) -> dict[int, float]:
        """As `Model.added`."""
        return {}

    @property
    def head_factor(self) -> float:
        """Factor on the learning rate for heads."""
        return 1.0

    def penalties(self) -> dict[str, dict[str, Tensor]]:
        """What the last batch adds to the loss of each of its tasks, by name."""
        return {}

    def chunk(self, rows: int) -> None:
        """As `Model.chunk`."""
        if rows:
            raise AllroundError(
                f"train the encoder '{self.name}' with chunk={rows}",
                "it computes batches whole",
                "use a text encoder as the base, or leave chunk out and save memory by accumulate",
            )

    def progressed(self, share: float) -> None:
        """As `Model.progressed`."""

    # -- of encoders that are stages one after the other --------------------------------------------------------------

    def stages(self) -> list[nn.Module]:
        """Its parts in order: the first reads what `entering` gives, and what the last gives goes to `leaving`.
        Errors: an encoder that has no such parts."""
        raise AllroundError(
            f"split the encoder '{self.name}' into stages",
            "it is no sequence of stages",
            "use small_image or small_table as the base, or share in another way, such as adapters or mmoe",
        )

    def entering(self, batch: Batch) -> Tensor:
        """What the first stage reads."""
        raise NotImplementedError(f"the encoder '{self.name}' has no stages")

    def leaving(self, batch: Batch, values: Tensor) -> Features:
        """The features, from what the last stage gives."""
        raise NotImplementedError(f"the encoder '{self.name}' has no stages")

    def tree(self) -> list[str]:
        """Which tasks go through the same copy of each stage, in words; nothing where all do."""
        return []

    def batch(self, prepared: Sequence[Any], definition: Definition) -> Batch:
        """Prepared rows of one task as a batch that knows it."""
        return replace(self.collate(prepared, definition), rows={definition.name: tuple(range(len(prepared)))})

    @property
    def backbone(self) -> nn.Module:
        """The network that adapters are added to."""
        return self

    def length(self, prepared: Any) -> int:
        """How much work a prepared row is; rows of like length are predicted together."""
        return 1

    def common(self, values: Tensor) -> Tensor:
        """What means the same for all tasks of vectors (n, features) that it gives, with one length for all."""
        return values

    def cut(self, inputs: Sequence[Row], definition: Definition) -> int:
        """How many of these rows are too long, so that it reads their beginning alone."""
        return 0

    def check(self, definition: Definition) -> None:
        """An error when this encoder cannot read a task's inputs."""
        if definition.modality not in self.modalities:
            raise AllroundError(
                f"read the {definition.modality} inputs of task '{definition.name}' with encoder '{self.name}'",
                f"it reads {' and '.join(self.modalities)} inputs",
                "choose another --base, or leave the task out",
            )
        reads = registry.find("head", self.head(definition)).facts["reads"]
        if reads not in self.gives:
            raise AllroundError(
                f"answer task '{definition.name}' with a head of the sort '{self.head(definition)}'",
                f"it reads {reads}, and the encoder '{self.name}' gives {' and '.join(self.gives)}",
                "use a language model as the --base, or another head, such as linear",
            )
        if registry.find("head", self.head(definition)).facts["pairs"] and not self.reads_apart(definition):
            raise AllroundError(
                f"answer task '{definition.name}' with a head of the sort '{self.head(definition)}'",
                "it compares the vectors of two texts, and they are read as one" if definition.pair
                else "it compares the vectors of two texts, and the rows of the task have no two texts",
                "let pairs be read apart (--pairs separate), or use another head, such as linear" if definition.pair
                else "name two columns of texts under 'inputs', or use another head, such as linear",
            )  # fmt: skip
        if kind(definition.kind).ranked != registry.find("head", self.head(definition)).facts["ranks"]:
            raise AllroundError(
                f"answer task '{definition.name}', of the kind {definition.kind}, with a head of the sort "
                f"'{self.head(definition)}'",
                "its answers rank passages, and the head ranks none" if kind(definition.kind).ranked
                else "the head ranks passages, and its rows have none",
                "use head: ranking, or leave `head` out" if kind(definition.kind).ranked
                else "use another head, such as linear, or kind: retrieval",
            )  # fmt: skip
        if registry.find("head", self.head(definition)).facts["bounded"] and not kind(definition.kind).numeric:
            raise AllroundError(
                f"answer task '{definition.name}', of the kind {definition.kind}, with a head of the sort "
                f"'{self.head(definition)}'",
                "its answers are no numbers, and the head gives numbers from 0 to 1",
                "use another head, such as linear",
            )
        if definition.agree and not registry.find("head", self.head(definition)).facts["pairs"]:
            raise AllroundError(
                f"train task '{definition.name}' by the loss '{definition.agree}'",
                f"it reads the cosine of two texts, and a head of the sort '{self.head(definition)}' has none",
                "let pairs be read apart (--pairs separate) by the head similarity, or leave `agree` out",
            )
        if kind(definition.kind).written and reads != "texts":
            raise AllroundError(
                f"answer task '{definition.name}', of the kind {definition.kind}, with encoder '{self.name}'",
                "its answers are texts, which only a language model can write",
                "use a language model as the --base, such as smollm2-135m, or leave the task out",
            )
        if kind(definition.kind).own_choices and reads != "scores":
            raise AllroundError(
                f"answer task '{definition.name}', of the kind {definition.kind}, with a head of the sort "
                f"'{self.head(definition)}'",
                f"its choices differ from row to row, and the head reads {reads}",
                "use head: choices, with a language model as the --base",
            )


def try_out(encoder: Encoder, definition: Definition, row: Row) -> None:
    """Compute the features of one row, so that what cannot work is found where the encoder is loaded."""
    encoder.eval()
    with torch.inference_mode():
        found = encoder(encoder.batch(encoder.prepare([row], definition), definition)).values
    if tuple(found.shape) != (1, encoder.features(definition)):
        raise ValueError(f"its features have the shape {tuple(found.shape)}, and its configuration says "
                         f"{(1, encoder.features(definition))}")  # fmt: skip


def load_tensors(module: nn.Module, path: Path) -> None:
    """Read all of a module's tensors from a safetensors file into its own dtypes; names and shapes must match."""
    from allround.checkpoints.header import FLOATS
    from allround.checkpoints.weights import Weights

    weights = Weights(path)
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or [
        name
        for name, tensor in own.items()
        if tuple(tensor.shape) != weights.shape(name) or tensor.is_floating_point() != (weights.dtype(name) in FLOATS)
    ]
    if wrong:
        raise AllroundError(
            f"load {path}",
            f"its tensors are not those of the network: {', '.join(wrong[:5])} differ",
            "check that the folder was written by the same encoder with the same settings",
        )
    module.load_state_dict({name: weights.get(name) for name in own})


def save_tensors(module: nn.Module, path: Path) -> None:
    """Write all of a module's tensors into a safetensors file."""
    from safetensors.torch import save_file

    save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, path, {"format": "pt"})


def hash_tensors(module: nn.Module) -> str:
    """A hash of a module's tensors: names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
