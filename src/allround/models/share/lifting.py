"""One task's low-rank changes of a model that shares, as a plain adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from allround.core.errors import AllroundError
from allround.core.files import write_json
from allround.core.outputs import output_folder
from allround.models.encoders.sharing import Sharing
from allround.models.share.bank.lora import Lora
from allround.models.share.insert import Replaced
from allround.models.share.mixture import Mixture


@torch.no_grad()
def lift_out(
    encoder: Sharing, task: str, out: Path | str, *, force: bool = False, inputs: Sequence[object] = ()
) -> dict[str, int]:
    """Write a task's low-rank changes as a LoRA adapter of PEFT for the inner encoder's network, into the folder `out`.

    With it the network gives what the encoder gives for the task. Returns the rank of each layer's change. A folder
    that is there is replaced only where `lift_out` wrote it and nothing was changed since, or with `force`. inputs:
    what the encoder was read from. Errors: no such task; modules that are no low-rank changes, or that are weighed by
    the row; a network behind the encoder.
    """
    asked = f"lift out the adapter of task '{task}'"
    if task not in encoder.tasks:
        raise AllroundError(asked, "the encoder has no room for it", f"name one of {', '.join(encoder.tasks)}")
    if encoder.network is not None or not encoder.parts:
        raise AllroundError(asked, "its modules are not all inside the encoder", "choose a model that has adapters")
    encoder.eval()
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, layer in encoder.sites:
        part = cast(Mixture, encoder.parts[name])
        a, b = _factors(part, task, asked)
        inner = cast(Replaced, encoder.backbone.get_submodule(layer)).base
        ranks[layer] = len(a)
        if isinstance(inner, nn.Conv2d):
            a, b = a.reshape(len(a), -1, *inner.kernel_size), b[:, :, None, None]
        tensors[f"base_model.model.{layer}.lora_A.weight"] = a.cpu().contiguous()
        tensors[f"base_model.model.{layer}.lora_B.weight"] = b.cpu().contiguous()
    from safetensors.torch import save_file

    rank = next(iter(ranks.values()))
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(ranks), "bias": "none",
             "lora_dropout": 0.0, "base_model_name_or_path": None, "task_type": None}  # fmt: skip
    with output_folder(out, "extract-lora", force=force, inputs=inputs) as folder:
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        write_json(folder / "adapter_config.json", about)
    return ranks


def _factors(part: Mixture, task: str, asked: str) -> tuple[Tensor, Tensor]:
    """A, (rank, width), and B, (outputs, rank), of all that a task uses at a layer; their product is the change."""
    banks = [part.bank(owner) for owner in part.visible[task]]
    if not all(isinstance(bank, Lora) for bank in banks) or part.mixing.reads != "vectors":
        raise AllroundError(asked, "its modules are no low-rank changes", "use poly, mhr or c_poly for such adapters")
    weights = part.gate(task)(torch.zeros(1, part.gate_width, device=next(part.parameters()).device))
    if weights.dim() > 1 and not all(cast(Lora, bank).heads > 1 for bank in banks):
        raise AllroundError(asked, "each row weighs them in another way", "use poly, mhr or c_poly for such adapters")
    pairs = [
        cast(Lora, bank).factors(some) for bank, some in zip(banks, part.split(task, weights).values(), strict=True)
    ]
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)
