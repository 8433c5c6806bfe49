"""Training tokens a second and the memory of a step: packed rows with logits at answers, beside padded rows with all.

python benchmarks/language_training.py --data-dir ../shared/data [--base smollm2-135m] [--steps 4] [--batch 16]

Batches hold rows of four tasks in random order (trec, sst2, emotion, num_to_verbal of the suite lm4). A step is forward
and backward with LoRA of rank 16 in float32, and the loss of the answers' tokens, in one thread. Three ways, each in a
process of its own, on the same batches: `padded`, as transformers does it with the logits of all tokens; `targets`,
padded, with logits at the answers' tokens alone; `packed`, as allround trains. Prints real tokens a second of processor
time (padding does not count), the most memory of the steps beyond what was held before them, and the largest difference
of the losses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.nn.functional import cross_entropy

from allround.core.jobs import quiet_libraries
from allround.core.memory import PeakMemory
from allround.models.base import find_folder, load_encoder
from allround.models.language.asking import AskedBatch
from allround.models.language.rows import TokenRow
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.trainable import add_adapter, choose_trainable

WAYS = ("padded", "targets", "packed")


def rows_of(model: MultiTaskModel, suite: Suite, count: int, seed: int) -> list[TokenRow]:
    """Rows of all tasks with their right answers, in random order."""
    found: list[TokenRow] = []
    for task in suite:
        split = task.splits["train"].take(range(count // len(suite)))
        definition = model.definition(task.name)
        encoder: Any = model.encoder
        prepared = encoder.prepare(split.inputs, definition, split.targets)
        taught = [encoder.asker.taught(definition, encoder.head(definition), row, target)
                  for row, target in zip(prepared, split.targets, strict=True)]  # fmt: skip
        found += [row for row in taught if row is not None]
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def padded(rows: Sequence[TokenRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask, and labels (-100 where none is asked for), (n, longest)."""
    whole = [(*row.prompt, *row.tree.tokens) for row in rows]
    width = max(map(len, whole))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for at, (tokens, row) in enumerate(zip(whole, rows, strict=True)):
        ids[at, : len(tokens)] = torch.tensor(tokens)
        mask[at, : len(tokens)] = 1
        labels[at, len(row.prompt) : len(tokens)] = ids[at, len(row.prompt) : len(tokens)]
    return ids, mask, labels


def loss_of(way: str, net: Any) -> Callable[[Sequence[TokenRow]], torch.Tensor]:
    """The loss of a batch in one of the ways."""

    def by_padding(rows: Sequence[TokenRow]) -> torch.Tensor:
        ids, mask, labels = padded(rows)
        if way == "padded":
            logits = net.network(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            return cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten())
        states = net.network.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
        asked = labels[:, 1:] != -100
        return cross_entropy(net.output(states[asked]).float(), labels[:, 1:][asked])

    def by_packing(rows: Sequence[TokenRow]) -> torch.Tensor:
        tensors = net.collate(AskedBatch(tuple(rows), tuple(len(row.tree.tokens) for row in rows)))
        return -net.log_probabilities(tensors).mean()

    return by_packing if way == "packed" else by_padding


def measure(way: str, given: argparse.Namespace) -> dict[str, object]:
    """One way, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    suite = Suite.load("lm4", data_dir=given.data_dir, limit={"train": 64, "validation": 8, "test": 8})
    model = MultiTaskModel(load_encoder(find_folder(given.base)), {task.name: task.definition for task in suite})
    settings = Settings(tune="lora", lora_rank=16)
    add_adapter(model, settings)
    choose_trainable(model, settings)
    model.train()
    loss = loss_of(way, model.encoder.net)
    batches = [rows_of(model, suite, given.batch, seed) for seed in range(given.steps)]
    loss(batches[0][:2]).backward()  # what is made at the first step
    memory, held, before = PeakMemory(), psutil.Process().memory_info().rss, time.process_time()
    losses = []
    for rows in batches:
        one = loss(rows)
        one.backward()
        losses.append(float(one.detach()))
    seconds = time.process_time() - before
    tokens = sum(len(row.prompt) + len(row.tree.tokens) for rows in batches for row in rows)
    peak = memory.read()
    more = None if peak is None else peak - held
    return {"way": way, "tokens": tokens, "seconds": seconds, "peak": more, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--way", choices=WAYS, help="Only this one, in this process, as JSON.")
    given = parser.parse_args()
    quiet_libraries()
    if given.way:
        print(json.dumps(measure(given.way, given)))
        return
    found: dict[str, Any] = {}
    for way in WAYS:
        ran = subprocess.run([sys.executable, *sys.argv, "--way", way], capture_output=True, text=True, check=True)
        found[way] = json.loads(ran.stdout.splitlines()[-1])
    first = found["padded"]
    print("way      tokens/s  ratio  peak MB  share")
    for way, one in found.items():
        speed, peak = one["tokens"] / one["seconds"], one["peak"] or 0
        ratio, share = speed * first["seconds"] / first["tokens"], peak / (first["peak"] or 1)
        print(f"{way:8} {speed:8.1f} {ratio:6.2f} {peak / 1e6:8.0f} {share:6.2f}")
    apart = max(abs(a - b) for one in found.values() for a, b in zip(one["losses"], first["losses"], strict=True))
    print(f"largest difference of the losses: {apart:.2g}")


if __name__ == "__main__":
    main()
