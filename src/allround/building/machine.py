"""The machine that figures belong to: what it is, the precision that suits it, the memory that was used."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Mapping

from allround.core.jobs import available_cores
from allround.evaluation.facts import MachineFacts
from allround.models.device import processor


def about_machine() -> MachineFacts:
    """The machine, the date and the versions that figures belong to."""
    packages = ("allround", "torch", "accelerate", "transformers", "sentence-transformers", "datasets", "scikit-learn")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{processor()}, {available_cores()} cores, {memory:.0f} GiB, {platform.system()}"
    return {"machine": machine, "date": datetime.date.today().isoformat(), "versions": versions}


def precision_words(chosen: str, layer: Mapping[str, float] | None = None) -> str:
    """The precision of matrix products in training, and why it was chosen. layer: what was measured for "auto".

    >>> precision_words("fp32", {"fp32": 0.02, "bf16": 0.045})
    'float32, the faster here: a layer takes 20 ms, and 45 ms in bfloat16'
    """
    names = {"fp32": "float32", "bf16": "bfloat16"}
    other = next(name for name in names if name != chosen)
    if layer is None:
        return f"{names[chosen]}, as asked for"
    if "bf16" not in layer:
        return "float32: the device does not compute in bfloat16"
    return (
        f"{names[chosen]}, the faster here: a layer takes {1000 * layer[chosen]:.3g} ms, "
        f"and {1000 * layer[other]:.3g} ms in {names[other]}"
    )


def peak_memory() -> int:
    """Bytes: this process's peak plus the largest peak among its worker processes, an upper estimate for two."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
