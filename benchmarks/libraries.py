"""How long a library of many adapters takes to list.

    python benchmarks/libraries.py --modules 1000

Writes rank-8 adapters of all-MiniLM-L6-v2 (on query and value, as PEFT chooses by default) with random factors into a
temporary folder, adds them to a library one by one, and lists it in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from allround import Library

LAYERS, WIDTH = 6, 384


def write_adapter(folder: Path, seed: int, rank: int) -> None:
    """An adapter as PEFT writes it."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(LAYERS):
        for part in ("query", "value"):
            name = f"base_model.model.encoder.layer.{layer}.attention.self.{part}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, WIDTH, generator=draw) / WIDTH**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(WIDTH, rank, generator=draw) / 100
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["query", "value"], "bias": "none"}
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=1000)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = Library.create(folder / "lib", "all-MiniLM-L6-v2")
        started = time.perf_counter()
        for number in range(options.modules):
            write_adapter(folder / "given", number, options.rank)
            library.add(folder / "given", f"module-{number:04}")
            shutil.rmtree(folder / "given")
        adding = time.perf_counter() - started
        print(f"{options.modules} modules added in {adding:.1f} s, {1000 * adding / options.modules:.1f} ms each")
        size = sum(file.stat().st_size for file in (folder / "lib").rglob("*") if file.is_file())
        print(f"{size / options.modules:,.0f} bytes a module on disk, {library.card('module-0000').bytes:,} of weights")
        command = [sys.executable, "-m", "allround", "library", "list", str(folder / "lib")]
        times, processor = [], []
        for _ in range(options.repeats):
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            times.append(time.perf_counter() - started)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        lines = ran.stdout.splitlines()
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"listed in {statistics.median(times):.2f} s (median of {options.repeats}; {spread}), "
              f"{statistics.median(processor):.2f} s of the processor, {len(lines)} lines")  # fmt: skip
        print("\n".join(lines[:3]))


if __name__ == "__main__":
    main()
