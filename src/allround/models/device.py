"""Where a model computes, and in what precision."""

from __future__ import annotations

import math
import os
import platform
import time
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path

import torch

from allround.core.errors import AllroundError, suggestion
from allround.core.files import read_settings, write_json

#: The layer that precisions are compared by: rows of a batch of short texts, and the widest layer of MiniLM.
_ROWS, _IN, _OUT = 256, 384, 1536
#: How often it is timed each way, in turns; the best time counts.
_TIMES = 5
#: bfloat16 must take at most this part of the time in float32: about a layer much is computed in float32 anyway.
_WORTH = 0.9


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
    """ "bf16" where matrix products are to be computed in bfloat16, else "fp32"; weights stay in float32 either way.

    name: "fp32" and "bf16" are what they say; "auto" is the faster of both on the device, see `layer_seconds`. The
    decision stands as long as this process; long work keeps it, and hands it to other processes.
    """
    if name not in ("auto", "fp32", "bf16"):
        raise AllroundError(
            f"compute in the precision '{name}'", "there is no such choice", suggestion(name, ("auto", "fp32", "bf16"))
        )
    if name != "auto":
        return name
    seconds = layer_seconds(pick_device(device).type)
    return "bf16" if seconds.get("bf16", math.inf) <= _WORTH * seconds["fp32"] else "fp32"


def products(name: str, device: str) -> AbstractContextManager[None]:
    """Compute matrix products as `precision(name, device)` says."""
    half: AbstractContextManager[None] = torch.autocast(
        pick_device(device).type, torch.bfloat16, enabled=precision(name, device) == "bf16"
    )
    return half


@cache
def layer_seconds(device: str) -> dict[str, float]:
    """Seconds that a linear layer takes, forward and backward, with products in "fp32" and in "bf16".

    device: a torch device type; one that does not compute bfloat16 has no time for it. Measured once for each
    processor, torch version and number of threads, and kept in the user's cache folder where that can be written.
    """
    kept = _cache_file()
    key = f"{processor() if device == 'cpu' else torch.cuda.get_device_name() if device == 'cuda' else device}; "
    key += f"torch {torch.__version__}; {torch.get_num_threads()} threads"
    known = _read(kept)
    if key not in known:
        known[key] = _measure(device)
        _write(kept, known)
    return known[key]


def processor() -> str:
    """The name of this machine's processor."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _measure(device: str) -> dict[str, float]:
    names = ["fp32"]
    if device == "cpu" or (device == "cuda" and torch.cuda.is_bf16_supported()):
        names.append("bf16")
    found = dict.fromkeys(names, math.inf)
    for _ in range(_TIMES):
        for name in names:
            found[name] = min(found[name], _time_layer(name, device))
    return found


def _time_layer(name: str, device: str) -> float:
    """Seconds of one layer, forward and backward. No random numbers are drawn for it."""
    with torch.inference_mode(False), torch.enable_grad(), products(name, device):
        rows = torch.linspace(-1, 1, _ROWS * _IN, device=device).view(_ROWS, _IN).requires_grad_()
        weight = torch.linspace(-1, 1, _OUT * _IN, device=device).view(_OUT, _IN).requires_grad_()
        _wait_for(device)
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weight).sum().backward()
        _wait_for(device)
        return time.perf_counter() - started


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _cache_file() -> Path | None:
    """Where measured speeds are kept; None where the user has no home."""
    folder = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(folder) if folder else Path.home() / ".cache") / "allround" / "precision.json"
    except RuntimeError:
        return None


def _read(path: Path | None) -> dict[str, dict[str, float]]:
    """What was measured before; nothing where that cannot be read."""
    found: dict[str, dict[str, float]] = {}
    try:
        listed = read_settings(path) if path is not None and path.is_file() else {}
        for key, times in dict(listed).items():
            seconds = {str(name): float(value) for name, value in dict(times).items()}
            if "fp32" in seconds and all(0 < value < math.inf for value in seconds.values()):
                found[key] = seconds
    except (OSError, ValueError, TypeError, AllroundError):
        return {}
    return found


def _write(path: Path | None, measured: dict[str, dict[str, float]]) -> None:
    if path is None:
        return
    with suppress(OSError, AllroundError):  # a cache that cannot be written is done without
        write_json(path, measured)
