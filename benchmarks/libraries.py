"""How long a library of many adapters takes to list, and how much memory routing between them takes.

    python benchmarks/libraries.py --modules 1000

Writes rank-8 adapters of all-MiniLM-L6-v2 (on query and value, as PEFT chooses by default) with random factors into a
temporary folder, adds them to a library one by one, and lists it in processes of their own. Then it routes 64 rows by
Arrow (top 4) in processes of their own: through none of the modules, through ten, and through all of them; `KEEP`
modules are held in memory.
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
BASE, ROWS, KEEP = "all-MiniLM-L6-v2", 64, 10


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


def route(folder: Path, count: int) -> None:
    """Route rows through the first modules of a library, in this process, and print what that took."""
    from allround.composition.route.arrow import Arrow
    from allround.composition.systems.routed import bank_of
    from allround.models.base import load_encoder
    from allround.models.running import batches
    from allround.tasks.definition import Definition

    library = Library.open(folder)
    encoder = load_encoder(library.base_folder).eval()
    definition = Definition("words", "classification", ("text",), "text", "accuracy", ("0", "1"))
    rows = [(" ".join(f"word{(row * 7 + place) % 50}" for place in range(20)),) for row in range(ROWS)]
    prepared = encoder.prepare(rows, definition)
    started, fitted = time.perf_counter(), 0.0
    with torch.inference_mode():
        if count:
            members = [library.member(name) for name in library.names[:count]]
            bank = bank_of(encoder, members, library.base_folder, keep=KEEP)
            router = Arrow(top=4)
            router.fit(bank, {}, 0)
            fitted = time.perf_counter() - started
            with bank.using(router.gate):
                for _, batch in batches(encoder, prepared, definition, ROWS):
                    encoder(batch)
        else:
            for _, batch in batches(encoder, prepared, definition, ROWS):
                encoder(batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak": peak * 1024, "fitted": fitted, "routed": time.perf_counter() - started - fitted}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=1000)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--route", type=Path, help="route between modules of this library, as this script calls itself")
    options = parser.parse_args()
    if options.route is not None:
        route(options.route, options.modules)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = Library.create(folder / "lib", BASE)
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
        for count in (0, min(10, options.modules), options.modules):
            command = [sys.executable, __file__, "--route", str(folder / "lib"), "--modules", str(count)]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            took = json.loads(ran.stdout.splitlines()[-1])
            print(f"{ROWS} rows through {count} modules: peak memory of the process {took['peak'] / 1e6:.0f} MB, "
                  f"router made in {took['fitted']:.1f} s, rows in {took['routed']:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main()
