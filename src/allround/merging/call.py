"""Merging from Python: models as folders, Hub ids, adapters, networks or state dicts, or as `load` gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeGuard, overload

import torch
from torch import Tensor, nn

from allround.checkpoints.header import asked_dtype, dtype_name
from allround.checkpoints.source import Source
from allround.core.errors import AllroundError, suggestion
from allround.core.jobs import available_cores
from allround.merging.layout import make_plan
from allround.merging.plan import Plan
from allround.merging.recipe import Model, Recipe
from allround.merging.save import check_base, check_heads, merge_models
from allround.merging.sources import open_model
from allround.merging.tensors import merged_tensors
from allround.models.base import find_folder, load_encoder
from allround.models.systems.multi_task_model import MultiTaskModel

#: What stands for a model: a folder, a file, a Hub id, an adapter; or its weights in memory.
ModelLike = str | Path | nn.Module | Mapping[str, Tensor]


class Memory(Source):
    """The weights of a network, or a state dict, as they are in memory."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.path = Path(name)
        self._tensors = tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        return dtype_name(self._tensors[name].dtype)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        values = self._tensors[name].detach().reshape(-1)[start:stop].cpu()
        if self.watch is not None:
            self.watch(name, start, values)
        return values

    @property
    def files(self) -> list[Path]:
        return []


@overload
def merge(
    models: Sequence[MultiTaskModel],
    *,
    base: ModelLike | None = None,
    method: str | None = None,
    out: None = None,
    **more: Any,
) -> MultiTaskModel: ...


@overload
def merge(
    models: Sequence[ModelLike],
    *,
    base: ModelLike | None = None,
    method: str | None = None,
    out: None = None,
    **more: Any,
) -> dict[str, Tensor]: ...


@overload
def merge(
    models: Sequence[ModelLike],
    *,
    base: ModelLike | None = None,
    method: str | None = None,
    out: Path | str,
    **more: Any,
) -> Path: ...


def merge(
    models: Sequence[ModelLike],
    *,
    base: ModelLike | None = None,
    method: str | None = None,
    out: Path | str | None = None,
    scope: str | None = None,
    dtype: str | None = None,
    on_mismatch: str = "error",
    extra_from: Path | str | None = None,
    statistics: Mapping[str, Sequence[Path | str]] | None = None,
    workers: int | None = None,
    device: str = "cpu",
    force: bool = False,
    **parameters: Any,
) -> MultiTaskModel | dict[str, Tensor] | Path:
    """Merge models that were tuned from one base.

    models, base: folders, files, Hub ids and LoRA adapters; or weights in memory: networks and state dicts; or models
    with heads, as `allround.load` gives them. Without a base the weights themselves are merged. method: see
    `allround.methods("merge")`; by default `ties`, and `average` without a base. parameters: the method's own, such as
    `keep=0.2`; where it says so, one number for each model. out: the folder of the merged model, which appears when it
    is whole; networks and state dicts have no configuration or tokenizer, so they cannot be merged into a folder.
    scope, dtype, on_mismatch, extra_from, statistics (kind -> a file for each model), workers, device, force: as of
    `allround merge`.

    Returns the folder, where `out` is given; of models with heads one model, whose encoder is merged and which has the
    heads of all of them; else the merged weights by name (as the base names them, on the CPU).

    >>> import torch
    >>> base, one, two = ({"weight": torch.tensor([0.0, x])} for x in (0.0, 2.0, 4.0))
    >>> merge([one, two], base=base, method="task_arithmetic", scale=0.5)
    {'weight': tensor([0., 3.])}

    What comes back is a model for the next merge, so a merge of several stages is several calls:

    >>> merge([merge([one, two], base=base, method="average"), two], base=base, method="task_arithmetic", scale=1.0)
    {'weight': tensor([0., 7.])}
    """
    check_workers(workers)
    device = checked_device(device)
    method = method or ("average" if base is None else "ties")
    named: dict[str, Mapping[str, Tensor]] = {}
    if isinstance(models, (str, Path, nn.Module, Mapping)):
        raise AllroundError("merge models", "a single model is given, and no list", "give a list: merge([one, two])")
    if _have_heads(models):
        if extra_from is not None:
            raise AllroundError(
                f"take what the base lacks from {extra_from}",
                "the models have heads, and all of them are kept",
                "leave it out",
            )
        options: dict[str, Any] = {"scope": scope, "dtype": dtype, "on_mismatch": on_mismatch, "statistics": statistics}
        whole = _merge_with_heads(models, base, method, **options, workers=workers, device=device, **parameters)
        if out is None:
            return whole
        whole.save(out, force=force)
        return Path(out)
    recipe = Recipe(
        method,
        tuple(_model(model, f"models[{number}]", named) for number, model in enumerate(models)),
        None if base is None else _model(base, "base", named),
        parameters,
        scope=scope,
        dtype=None if dtype is None else asked_dtype(dtype),
        on_mismatch=on_mismatch,
        extra_from=None if extra_from is None else str(extra_from),
        statistics={kind: tuple(map(str, files)) for kind, files in (statistics or {}).items()},
    )
    if base is not None and recipe.base is not None and recipe.base.path not in named:
        check_base(recipe.base.path)
    threads = workers or min(available_cores(), 8)
    if out is not None:
        if named:
            raise AllroundError(
                f"merge into the folder {out}",
                f"{next(iter(named))} is in memory, without configuration and tokenizer",
                "leave `out` out and load the weights that are returned, or give folders",
            )
        check_heads(recipe)
        merge_models(make_plan(recipe), Path(out), workers=workers, device=device, force=force)
        return Path(out)
    return merged_tensors(_plan(recipe, named), threads=threads, device=device)


def _have_heads(models: Sequence[ModelLike]) -> TypeGuard[Sequence[MultiTaskModel]]:
    return bool(models) and all(isinstance(model, MultiTaskModel) for model in models)


def _merge_with_heads(
    models: Sequence[MultiTaskModel], base: ModelLike | None, method: str, **more: Any
) -> MultiTaskModel:
    """One model with the merged encoder of several, and the heads of all. The arguments are those of `merge`."""
    asked = f"merge {len(models)} models with their heads by '{method}'"
    names = [name for model in models for name in model.definitions]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise AllroundError(
            asked, f"the task '{twice[0]}' is in two of them", "give each task once: a model has one head for each"
        )
    first = models[0].encoder
    if any(model.encoder.preparation != first.preparation for model in models):
        raise AllroundError(
            asked,
            "they prepare their inputs in different ways (another tokenizer, length or size)",
            "give models that were tuned from one base with the same encoder settings",
        )
    if isinstance(base, (str, Path)):
        base = load_encoder(find_folder(base))
    elif isinstance(base, MultiTaskModel):
        base = base.encoder
    weights = merge([model.encoder for model in models], base=base, method=method, **more)
    made = MultiTaskModel(deepcopy(first), {})
    made.encoder.load_state_dict(weights)
    for model in models:
        for name, definition in model.definitions.items():
            made.add_task(definition, model.head(name).stored())
    made.facts = {"made_by": {"merged_by": method}}
    return made.eval()


def check_workers(workers: int | None) -> None:
    """An error for a number of threads that is less than one."""
    if workers is not None and workers < 1:
        raise AllroundError(
            f"merge with {workers} workers", "workers must be at least 1", "leave it out, or give at least 1"
        )


def checked_device(device: str) -> str:
    """cpu or cuda; auto is cuda where there is one. Errors: cuda where there is none."""
    known = ("cpu", "cuda", "auto")
    if device not in known:
        raise AllroundError(f"merge on '{device}'", "there is no such device", suggestion(device, known))
    if device == "cpu":
        return device
    if torch.cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise AllroundError("merge on 'cuda'", "torch finds no such device here", "leave --device out")


def _model(weights: ModelLike, name: str, named: dict[str, Mapping[str, Tensor]]) -> Model:
    if isinstance(weights, (str, Path)):
        return Model(str(weights))
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise AllroundError(
                f"merge {name}",
                f"{key!r} is a {type(value).__name__}, and weights are tensors by name",
                "give a network, or what its state_dict() gives",
            )
    label = f"<{name}>"
    named[label] = tensors
    return Model(label)


def _plan(recipe: Recipe, named: Mapping[str, Mapping[str, Tensor]]) -> Plan:
    def open_one(model: Model, base: Source | None) -> Source:
        return Memory(model.path, named[model.path]) if model.path in named else open_model(model, base)

    return make_plan(recipe, opener=open_one)
