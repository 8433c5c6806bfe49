"""Where a model computes, and in what precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import torch

from allround.core.errors import AllroundError


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise AllroundError(f"use the device '{name}'", "torch sees no CUDA device here", "use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise AllroundError(f"use the device '{name}'", "torch knows no such device", "use auto, cpu or cuda") from None


def precision(name: str, device: str) -> str:
    """ "bf16" where the matrix products are to be computed in half precision, else "no"; weights stay float32.

    name: "fp32", "bf16", or "auto", which is "bf16" where the device computes with it.
    """
    if name != "auto":
        return {"fp32": "no", "bf16": "bf16"}[name]
    if pick_device(device).type != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if _cpu_has_bf16() else "no"


def products(name: str, device: str) -> AbstractContextManager[None]:
    """Compute matrix products as `precision(name, device)` says."""
    half: AbstractContextManager[None] = torch.autocast(
        pick_device(device).type, torch.bfloat16, enabled=precision(name, device) == "bf16"
    )
    return half


def _cpu_has_bf16() -> bool:
    path = Path("/proc/cpuinfo")
    flags = path.read_text() if path.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
