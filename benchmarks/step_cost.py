"""What a training step costs with each balancer, beside the plain sum and torchjd's own `mtl_backward`.

Every task of a suite has a batch of its own in each step. Each line is a process of its own: the median time of a step
(gradients, balancing, AdamW; float32) and the peak of its resident memory. The plain sum is a bare loop of
`loss.backward()`, a task after the other.

    python benchmarks/step_cost.py text8 --data-dir data --base all-MiniLM-L6-v2 --batch-size 16 --steps 8
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from allround.core import registry

PLAIN = "plain sum"
TORCHJD = "torchjd mtl_backward (UPGrad)"


def measure(given: argparse.Namespace) -> None:
    import torch

    from allround.core.jobs import quiet_libraries
    from allround.models.base import open_encoder
    from allround.models.systems.multi_task_model import MultiTaskModel
    from allround.tasks.kind import kind
    from allround.tasks.suite import Suite
    from allround.training.balancing import Outline, make_balancer
    from allround.training.feeds import make_feeds
    from allround.training.gradients import Gradients
    from allround.training.losses import Part
    from allround.training.processes import Processes

    quiet_libraries()
    suite = Suite.load(given.suite, data_dir=given.data_dir, limit={"train": 400, "validation": 100, "test": 50})
    tasks = list(suite.tasks.values())
    encoder = open_encoder(given.base or suite.base, tasks, 0, {})
    torch.manual_seed(0)
    model = MultiTaskModel(encoder, {t.name: t.definition for t in tasks})
    for task in tasks:
        torch.nn.init.normal_(model.heads[task.name].weight, std=0.02)
        model.heads[task.name].requires_grad_(False)
    model.train()
    feeds = make_feeds(tasks, encoder, batch_size=given.batch_size, batch_sizes={}, seed=0)
    held = make_feeds(tasks, encoder, batch_size=given.batch_size, batch_sizes={}, seed=0, split="validation")
    shared = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(shared, lr=1e-5, fused=True)

    def losses(number: int) -> list[tuple[torch.Tensor, Callable[[], torch.Tensor]]]:
        """For each task its features when called for, and the loss on them."""
        made = []
        for task, feed in zip(tasks, feeds, strict=True):
            rows = feed.batch(number)
            split, rules = task.splits["train"].take(rows), kind(task.definition.kind)

            def forward(task=task, feed=feed, rows=rows):  # type: ignore[no-untyped-def]
                return encoder(encoder.collate([feed.rows[i] for i in rows], task.definition))

            def loss(features, task=task, split=split, rules=rules):  # type: ignore[no-untyped-def]
                return rules.loss(model.heads[task.name](features), rules.tensor(split.targets), task.definition)

            made.append((forward, loss))
        return made

    def plain(number: int) -> None:
        optimiser.zero_grad()
        for forward, loss in losses(number):
            loss(forward()).backward()

    def torchjd(number: int) -> None:
        from torchjd.aggregation import UPGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        optimiser.zero_grad()
        made = [(loss, forward()) for forward, loss in losses(number)]
        features = [f for _, f in made]
        mtl_backward([loss(f) for loss, f in made], features=features, tasks_params=[[] for _ in made],
                     shared_params=shared, parallel_chunk_size=1)  # fmt: skip
        jac_to_grad(shared, UPGrad())

    def ours(name: str) -> Callable[[int], None]:
        outline = Outline(tuple(t.name for t in tasks),
                          tuple(kind(t.definition.kind).outputs(t.definition) for t in tasks),
                          tuple(len(t.splits["train"]) for t in tasks), 1000, 100)  # fmt: skip
        entry = registry.find("balance", name)
        gradients = Gradients(model, tasks, entry, lambda: make_balancer(name, {}, outline),
                              processes=Processes(cpu=True), products=nullcontext)  # fmt: skip
        looks = "validation" in entry.needs

        def step(number: int) -> None:
            parts = [Part(f, f.batch(number), list(f.tasks)) for f in feeds]
            on = [Part(f, f.batch(number), list(f.tasks), "validation") for f in held] if looks else []
            taken = gradients.step(parts, number, 0.1, on)
            if "after" in entry.needs and taken.seen is not None:
                tasks_seen = taken.seen.tasks.tolist()
                gradients.balancers[0].stepped(taken.seen, gradients.losses(parts, tasks_seen))

        return step

    step = plain if given.one == PLAIN else torchjd if given.one == TORCHJD else ours(given.one)
    times = []
    for number in range(given.steps + 2):
        started = time.perf_counter()
        step(number)
        optimiser.step()
        times.append(time.perf_counter() - started)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": statistics.median(times[2:]), "bytes": int(peak.split()[1]) * 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--base")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", help="lines, with commas between")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return measure(given)
    lines = [PLAIN, *registry.names("balance"), TORCHJD, PLAIN]
    if given.only:
        lines = [PLAIN, *given.only.split(","), TORCHJD, PLAIN]
    print(
        "| balancer | step, s | beside the plain sum | peak memory, GB | beside the plain sum |\n|---|---|---|---|---|"
    )
    first: dict[str, float] = {}
    for line in lines:
        done = subprocess.run([sys.executable, *sys.argv, "--one", line], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {line} | failed: {done.stderr.strip().splitlines()[-1]} | | | |", flush=True)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        first = first or found
        print(f"| {line} | {found['seconds']:.2f} | {found['seconds'] / first['seconds']:.2f} | "
              f"{found['bytes'] / 1e9:.2f} | {found['bytes'] / first['bytes']:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
