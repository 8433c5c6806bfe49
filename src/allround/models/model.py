"""A model for several tasks: one encoder, and a linear head for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allround.checkpoints.finite import check_finite, count_odd, odd_words
from allround.core.errors import AllroundError, suggestion
from allround.core.files import check_name, read_settings, write_json
from allround.core.outputs import output_folder
from allround.core.version import __version__
from allround.models.base import check_one_model, load_encoder
from allround.models.encoder import Batch, Encoder
from allround.tasks.definition import Definition
from allround.tasks.kind import Encoded, kind
from allround.tasks.modality import modality_of

FORMAT = 1


@dataclass(frozen=True)
class Outputs:
    """What a head gave for a list of rows, in their order. `lengths`: words of each row, for tasks per word."""

    logits: Tensor
    lengths: tuple[int, ...]


class _Heads(nn.ModuleDict):
    """Heads by the name of their task; any name will do, also one that modules have an attribute of ("type")."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":  # a flag of every module, and a name that a task may have
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


class MultiTaskModel(nn.Module):
    """One encoder and a head per task.

    >>> from allround.models.encoders.small_image import SmallImage
    >>> from allround.tasks.definition import Definition
    >>> parity = Definition("parity", "classification", ("image",), "image", "accuracy", ("even", "odd"))
    >>> MultiTaskModel(SmallImage(), {"parity": parity}).heads["parity"]
    Linear(in_features=128, out_features=2, bias=True)
    """

    def __init__(self, encoder: Encoder, definitions: Mapping[str, Definition]) -> None:
        super().__init__()
        self.encoder = encoder
        self.definitions: dict[str, Definition] = {}
        self.heads = _Heads()
        for definition in definitions.values():
            self.add_task(definition)
        self.facts: dict[str, Any] = {}

    def add_task(self, definition: Definition, head: Mapping[str, Tensor] | None = None) -> None:
        """Add a task with a fresh head (zeros), or with the given `weight` (outputs, features) and `bias`."""
        self.encoder.check(definition)
        linear = nn.Linear(self.encoder.features(definition), kind(definition.kind).outputs(definition))
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        if head is not None:
            wrong = [k for k, v in linear.state_dict().items() if k not in head or head[k].shape != v.shape]
            if wrong:
                raise AllroundError(
                    f"use the head of task '{definition.name}'",
                    f"its {wrong[0]} is {tuple(head[wrong[0]].shape) if wrong[0] in head else 'missing'}, and the "
                    f"encoder and the task's labels need {tuple(linear.state_dict()[wrong[0]].shape)}",
                    "use the head with the encoder and labels that it was made for",
                )
            linear.load_state_dict(dict(head))
        self.definitions[definition.name] = definition
        self.heads[definition.name] = linear

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def parameters_stored(self) -> int:
        """How many parameters must be kept for all its tasks."""
        return parameters_of(self)

    def definition(self, task: str) -> Definition:
        """The definition of a task, or an error that suggests the nearest name."""
        if task not in self.definitions:
            raise AllroundError(
                f"answer task '{task}'", "the model has no head for it", suggestion(task, self.definitions)
            )
        return self.definitions[task]

    def forward(self, task: str, batch: Any) -> Tensor:
        """Logits of a batch: (n, outputs), or (words, outputs)."""
        logits: Tensor = self.heads[task](self.encoder(batch))
        return logits

    @torch.inference_mode()
    def outputs(self, task: str, inputs: Sequence[tuple[Any, ...]], batch_size: int = 64) -> Outputs:
        """Logits for rows of inputs, computed in batches of rows of like length."""
        definition = self.definition(task)
        _check_inputs(definition, inputs)
        return self.outputs_prepared(task, self.encoder.prepare(inputs, definition), batch_size)

    @torch.inference_mode()
    def outputs_prepared(self, task: str, prepared: Sequence[Any], batch_size: int = 64) -> Outputs:
        """As `outputs`, for rows that the encoder has prepared."""
        definition = self.definition(task)
        self.eval()
        made = by_length(self.encoder, definition, prepared, batch_size, lambda batch: self(task, batch))
        return made if prepared else Outputs(torch.empty(0, kind(definition.kind).outputs(definition)), ())

    def predict_encoded(self, task: str, outputs: Outputs) -> tuple[Encoded, list[float] | None]:
        """Encoded predictions, and the probability of each where the kind has one."""
        rules = kind(self.definition(task).kind)
        return rules.predict(outputs.logits, outputs.lengths), rules.confidence(outputs.logits, outputs.lengths)

    def predict(self, task: str, inputs: Sequence[Any], batch_size: int = 64) -> list[Any]:
        """Readable answers (labels, lists of labels, numbers, lists of tags) for inputs.

        An input is a text, a pair of texts (as a tuple), an image, a list of words, or a tuple of a table's columns.
        """
        definition = self.definition(task)
        if isinstance(inputs, str):
            raise AllroundError(f"answer task '{task}'", "the inputs are a single text", "give a list of inputs")
        rows = [row if isinstance(row, tuple) else (row,) for row in inputs]
        if not rows:
            return []
        encoded, _ = self.predict_encoded(task, self.outputs(task, rows, batch_size))
        return kind(definition.kind).decode(encoded, definition)

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the model into a folder that appears when it is whole.

        A folder that is there is replaced only where `save` wrote it and nothing was changed since, or with `force`.
        """
        with output_folder(folder, "MultiTaskModel.save", force=force) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """Write the model's files into an existing folder."""
        (folder / "encoder").mkdir()
        self.encoder.save(folder / "encoder")
        write_heads(folder / "heads.safetensors", {n: h.state_dict() for n, h in self.heads.items()})
        write_definitions(folder, self.definitions, self.facts)


def _check_inputs(definition: Definition, rows: Sequence[tuple[Any, ...]]) -> None:
    """An error for the first row that a task cannot read."""
    rules = modality_of(definition)
    for number, row in enumerate(rows):
        asked = f"answer task '{definition.name}'"
        if len(row) != len(definition.inputs):
            do = f"give {len(definition.inputs)}: {', '.join(definition.inputs)}"
            raise AllroundError(asked, f"input {number} has {len(row)} parts", do)
        for column, value in zip(definition.inputs, row, strict=True):
            if not rules.fits(value):
                found = f"'{column}' of input {number} is of type {type(value).__name__}"
                raise AllroundError(asked, found, f"give {rules.noun}")


def write_heads(path: Path, heads: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Heads of several tasks in one safetensors file: `<task>.weight`, `<task>.bias`."""
    from safetensors.torch import save_file

    save_file({f"{n}.{k}": v.detach().cpu().contiguous() for n, head in heads.items() for k, v in head.items()}, path)


def read_heads(path: Path) -> dict[str, dict[str, Tensor]]:
    """What `write_heads` wrote. Errors: a file of anything else, and numbers that are not finite."""
    from allround.checkpoints.header import FLOATS
    from allround.checkpoints.weights import Weights

    weights = Weights(path)
    heads: dict[str, dict[str, Tensor]] = {}
    for name in weights:
        task, _, part = name.rpartition(".")
        if not task or part not in ("weight", "bias") or weights.dtype(name) not in FLOATS:
            raise AllroundError(
                f"read the heads in {path}",
                f"'{name}' ({weights.dtype(name)}) is neither the weight nor the bias of a task's head",
                "copy the model again, whole",
            )
        heads.setdefault(task, {})[part] = weights.get(name)
    tensors = ((f"{task}.{part}", value) for task, head in heads.items() for part, value in head.items())
    check_finite(tensors, f"read the heads in {path}", path, "tune the model again, or copy it again")
    return heads


def write_definitions(folder: Path, definitions: Mapping[str, Definition], facts: Mapping[str, Any]) -> None:
    """The file that makes a folder a model: tasks, and whatever is known of how it was made."""
    tasks = [d.to_json() for d in definitions.values()]
    write_json(folder / "allround.json", {"format": FORMAT, "allround": __version__, "tasks": tasks, **facts})


def read_definitions(folder: Path) -> tuple[dict[str, Definition], dict[str, Any]]:
    """What `write_definitions` wrote."""
    path = folder / "allround.json"
    if not path.is_file():
        raise AllroundError(
            f"load the model in {folder}",
            "the folder has no allround.json" if folder.is_dir() else "there is no such folder",
            "give the folder of a model that allround saved, such as runs/NAME/best",
        )
    value = read_settings(path)
    try:
        if value["format"] > FORMAT:
            raise AllroundError(
                f"load the model in {folder}",
                f"it was written in format {value['format']}, and this version reads up to {FORMAT}",
                "upgrade: pip install -U allround",
            )
        definitions = [Definition.from_json(task) for task in value["tasks"]]
        for definition in definitions:
            check_name(definition.name, "task")
        if len({d.name for d in definitions}) < len(definitions):
            raise ValueError("it lists a task twice")
    except (KeyError, TypeError, ValueError) as error:
        raise AllroundError(
            f"load the model in {folder}", f"allround.json is damaged: {error}", "copy the folder again, whole"
        ) from error
    facts = {k: v for k, v in value.items() if k not in ("format", "allround", "tasks")}
    return {d.name: d for d in definitions}, facts


def load(
    folder: Path | str,
    *,
    module: nn.Module | None = None,
    to_tensor: Callable[[tuple[Any, ...]], Tensor] | None = None,
    device: str = "cpu",
) -> MultiTaskModel:
    """Load a saved model. A store of residuals is loaded by `allround.load`.

    module, to_tensor: the network, and what turns its rows into tensors, when the model was made from a network of
    the user's own.
    """
    folder = Path(folder)
    definitions, facts = read_definitions(folder)
    check_one_model(folder, facts, f"load the model in {folder}")
    if module is not None:
        from allround.models.encoders.module import give

        give(module, to_tensor)
    model = MultiTaskModel(load_encoder(folder / "encoder"), {})
    heads = read_heads(folder / "heads.safetensors")
    for name, definition in definitions.items():
        model.add_task(definition, heads.get(name, {}))
    model.facts = facts
    return model.to(device).eval()


@torch.inference_mode()
def outputs_alike(
    models: Sequence[MultiTaskModel], task: str, prepared: Sequence[Any], batch_size: int = 64
) -> list[Outputs]:
    """What `outputs_prepared` of each model gives, for models that share one encoder: it is run once.

    Errors: models with encoders of their own.
    """
    first = models[0]
    if len(models) == 1 or not prepared:
        return [model.outputs_prepared(task, prepared, batch_size) for model in models]
    if any(model.encoder is not first.encoder for model in models):
        raise ValueError("the models have encoders of their own")
    heads = [model.eval().heads[task] for model in models]

    def compute(batch: Batch) -> Tensor:
        features = first.encoder(batch)
        return torch.cat([head(features) for head in heads], 1)

    made = by_length(first.encoder, first.definition(task), prepared, batch_size, compute)
    width = made.logits.shape[1] // len(models)
    return [Outputs(part, made.lengths) for part in made.logits.split(width, 1)]


def by_length(
    encoder: Encoder,
    definition: Definition,
    prepared: Sequence[Any],
    batch_size: int,
    compute: Callable[[Batch], Tensor],
) -> Outputs:
    """What `compute` gives for prepared rows, in their order, as float32 on the CPU.

    Rows of like length go through together, longest first: padding is little, and memory peaks at once.
    Errors: numbers that are not finite.
    """
    per_token = kind(definition.kind).per_token
    device = next(encoder.parameters(), torch.empty(0)).device
    order = sorted(range(len(prepared)), key=lambda i: (-encoder.length(prepared[i]), i))
    found: list[Tensor] = [torch.empty(0)] * len(prepared)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = encoder.collate([prepared[i] for i in rows], definition).to(device)
        made = compute(batch).float().cpu()
        parts = made.split(list(batch.lengths)) if per_token else made.split(1)
        for row, part in zip(rows, parts, strict=True):
            found[row] = part
    lengths = tuple(len(part) for part in found) if per_token else ()
    whole = torch.cat(found) if found else torch.empty(0)
    if count_odd(whole):
        raise _not_finite(encoder, definition, found)
    return Outputs(whole, lengths)


def _not_finite(encoder: Encoder, definition: Definition, found: Sequence[Tensor]) -> AllroundError:
    odd = [row for row, part in enumerate(found) if count_odd(part)]
    tensors = [*encoder.named_parameters(), *encoder.named_buffers()]
    why = next((f"; '{name}' of the encoder holds {odd_words(v)}" for name, v in tensors if count_odd(v)), "")
    return AllroundError(
        f"answer task '{definition.name}'",
        f"NaN or infinity came for {len(odd)} of {len(found)} rows, first for row {odd[0]} (counted from 0){why}",
        "check the model, and these rows; where it came in training, lower the learning rate",
    )


def parameters_of(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(p.numel() for p in module.parameters())
