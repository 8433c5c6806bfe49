"""heads.safetensors: the heads of several tasks in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from allround.checkpoints.finite import check_finite
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models.encoder import LINEAR
from allround.models.head import HeadState

#: The file of a model's heads.
HEADS = "heads.safetensors"


def write_heads(path: Path, heads: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Heads of several tasks in one safetensors file: `<task>.<tensor>`, such as `<task>.weight`; the sorts of those
    that are not linear are in its metadata."""
    from safetensors.torch import save_file

    from allround.checkpoints.header import dtype_name
    from allround.checkpoints.write import write_weights

    tensors = {f"{n}.{k}": v.detach().cpu().contiguous() for n, head in heads.items() for k, v in head.items()}
    sorts = {n: head.sort for n, head in heads.items() if isinstance(head, HeadState) and head.sort != LINEAR}
    if len(sorts) < 2:
        save_file(tensors, path, sorts or None)
        return
    # That library writes several entries in an order that changes from run to run.
    layout = {n: (dtype_name(tensor.dtype), tuple(tensor.shape)) for n, tensor in sorted(tensors.items())}
    write_weights(path, layout, sorted(tensors.items()), dict(sorted(sorts.items())))


def read_heads(path: Path) -> dict[str, HeadState]:
    """What `write_heads` wrote. Errors: a file of anything else, and numbers that are not finite."""
    from allround.checkpoints.header import FLOATS
    from allround.checkpoints.weights import Weights

    weights = Weights(path)
    known = registry.names("head")
    # Heads without weights of their own have no tensors.
    heads = {task: HeadState({}, sort) for task, sort in weights.metadata.items() if sort in known}
    for name in weights:
        task, _, part = name.rpartition(".")
        if not task or not part or weights.dtype(name) not in FLOATS:
            raise AllroundError(
                f"read the heads in {path}",
                f"'{name}' ({weights.dtype(name)}) is not a tensor of a task's head",
                "copy the model again, whole",
            )
        heads.setdefault(task, HeadState({}, weights.metadata.get(task, LINEAR)))[part] = weights.get(name)
    tensors = ((f"{task}.{part}", value) for task, head in heads.items() for part, value in head.items())
    check_finite(tensors, f"read the heads in {path}", path, "tune the model again, or copy it again")
    return heads
