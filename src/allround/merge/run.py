"""The machinery of merging: keys, shapes, dtypes, files. Methods see tensors only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allround.checkpoints.weights import Weights
from allround.checkpoints.write import write_weights
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.version import __version__

_FLOATS = ("F64", "F32", "F16", "BF16")
#: The base's weights in other formats: they are not merged, so they do not belong beside what is.
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf")


def check_alike(base: Weights, tuned: Sequence[Weights]) -> None:
    """An error unless all checkpoints have the base's tensors, with its shapes. Reads headers only."""
    for weights in tuned:
        asked = f"merge {weights.path} into {base.path}"
        do = "merge only checkpoints that were tuned from this base; if it is the right one, tune again from it"
        missing = [n for n in base if n not in weights and base.dtype(n) in _FLOATS]
        extra = [n for n in weights if n not in base and weights.dtype(n) in _FLOATS]
        if missing or extra:
            parts = [f"{len(missing)} tensors of the base are missing ({', '.join(missing[:3])})"] if missing else []
            parts += [f"{len(extra)} tensors are not in the base ({', '.join(extra[:3])})"] if extra else []
            raise AllroundError(asked, "; ".join(parts), do)
        differ = [n for n in base if n in weights and base.shape(n) != weights.shape(n)]
        if differ:
            name = differ[0]
            raise AllroundError(
                asked,
                f"{len(differ)} tensors differ in shape, such as {name}: {weights.shape(name)}, in the base "
                f"{base.shape(name)}",
                do,
            )


def merged_tensors(
    base: Weights, tuned: Sequence[Weights], method: str, parameters: Mapping[str, Any], names: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    """The merged tensors, one at a time, in the base's dtypes.

    Methods compute in float32 (float64 stays). Tensors that are no floating point, and those that no specialist
    changed, are the base's.
    """
    entry = registry.find("merge", method)
    compute, values = entry.load(), entry.resolve(parameters)
    with torch.inference_mode():
        for name in names:
            start = base.get(name)
            if base.dtype(name) not in _FLOATS or start.numel() == 0:
                yield name, start
                continue
            kind = torch.float64 if start.dtype == torch.float64 else torch.float32
            wide = start.to(kind)
            changed = [w.get(name) for w in tuned]
            if all(_same_bits(start, tensor) for tensor in changed):
                yield name, start
                continue
            deltas = torch.stack([tensor.to(kind) - wide for tensor in changed])
            if not deltas.any():
                yield name, start
                continue
            if not torch.isfinite(deltas).all():
                raise _not_finite(name, base, wide, tuned, deltas)
            merged = compute(wide, deltas, **values).to(start.dtype)
            if not torch.isfinite(merged).all():
                raise AllroundError(
                    f"merge the tensor '{name}' by '{method}'",
                    f"the result is too large for {start.dtype}, or not a number",
                    "use a smaller scale, or another method",
                )
            yield name, merged


def _same_bits(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one.reshape(-1).view(torch.uint8), two.reshape(-1).view(torch.uint8))


def _not_finite(name: str, base: Weights, wide: Tensor, tuned: Sequence[Weights], deltas: Tensor) -> AllroundError:
    asked = f"merge the tensor '{name}'"
    if not torch.isfinite(wide).all():
        return AllroundError(asked, f"the base {base.path} holds NaN or infinity there", "use a base that is whole")
    bad = [w.path for w, d in zip(tuned, deltas, strict=True) if not torch.isfinite(d).all()]
    return AllroundError(asked, f"{bad[0]} holds NaN or infinity there", "leave that specialist out, or tune it again")


def merge_folders(
    base: Path | str,
    tuned: Sequence[Path | str],
    out: Path,
    *,
    method: str,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Merge encoder folders into `out`, an existing empty folder, and return what was done.

    base, tuned: folders with safetensors files. Weight files keep the base's names and layout; everything else
    (configuration, tokenizer, pooling) is copied from the base, but for weights in other formats. At most one tensor
    of each model is in memory.
    """
    parameters = registry.find("merge", method).resolve(parameters or {})
    if not tuned:
        raise AllroundError(f"merge by '{method}'", "no specialist was given", "give at least one beside the base")
    start, others = Weights(base), [Weights(t) for t in tuned]
    check_alike(start, others)
    recipe = {"method": method, "parameters": parameters, "allround": __version__}
    root = start.path if start.path.is_dir() else start.path.parent
    for file in start.files:
        names = {key: name for name in start for f, key in [start.file_of(name)] if f == file}
        plan = {key: (start.dtype(name), start.shape(name)) for key, name in names.items()}
        tensors = merged_tensors(start, others, method, parameters, list(names.values()))
        keyed = ((key, tensor) for key, (_, tensor) in zip(names, tensors, strict=True))
        write_weights(out / file.relative_to(root), plan, keyed)
    for source in sorted(root.rglob("*")) if start.path.is_dir() else []:
        target = out / source.relative_to(root)
        if source.is_file() and source.suffix not in (".safetensors", *_OTHER_WEIGHTS) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    recipe["inputs"] = {"base": start.content, "tuned": [w.content for w in others]}
    write_json(out / "merge.json", recipe)
    return recipe
