"""Steps of contrastive training against the trainer of sentence-transformers, on the same batches.

python benchmarks/contrastive.py [--data DATA] [--loss cosent|mse|ranking] [--batch 32] [--steps 20] [--blocks 5]
[--precision fp32]: all-MiniLM-L6-v2, pairs of sick with their scores, texts of up to 64 tokens, AdamW, no dropout. A
block is a whole training of so many steps; blocks of the two alternate, and each gets the same pairs in the same
batches. Ours counts from rows to the last step, theirs from the call of `train`; both make their tokens within. Seconds
are those of the processor, over all threads, so that other work on the cores matters little. The ratio is theirs by
ours: above 1 ours takes less. With --loss ranking the first sentence of a pair is a query and the second its passage,
and the other passages of a batch are negatives, as in MultipleNegativesRankingLoss.

python benchmarks/contrastive.py --memory: the highest memory of a step with 256 pairs, whole and in chunks, each in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from allround.models.base import find_folder, load_encoder
from allround.models.fitting import fit_head
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import TrainingRun

BASE, LENGTH, RATE = "all-MiniLM-L6-v2", 64, 5e-5


def load_task(data: Path, rows: int, loss: str = "cosent") -> Task:
    found = {s: [json.loads(line) for line in (data / "sick" / f"{s}.jsonl").open()] for s in ("train", "validation")}
    data_ = {"train": found["train"][:rows], "validation": found["validation"][:4], "test": found["validation"][4:8]}
    if loss != "ranking":
        return make_task("pairs", kind="similarity", inputs=["premise", "hypothesis"], target="relatedness", data=data_)
    texts = {row["hypothesis"]: None for rows_ in data_.values() for row in rows_}
    passages = {f"p{number}": text for number, text in enumerate(texts)}
    ids = {text: one for one, text in passages.items()}
    queries = {split: [{"query": row["premise"], "relevant": [ids[row["hypothesis"]]]} for row in rows_]
               for split, rows_ in data_.items()}  # fmt: skip
    return make_task("pairs", kind="retrieval", inputs="query", target="relevant", passages=passages, data=queries)


def without_dropout(module: nn.Module) -> None:
    for one in module.modules():
        if isinstance(one, nn.Dropout):
            one.p = 0.0


class Ours:
    """The trainer of allround; a training for each block."""

    def __init__(self, task: Task, args: argparse.Namespace) -> None:
        self.task = task.weighed(agree=args.loss) if args.loss == "cosent" else task
        self.model = MultiTaskModel(load_encoder(find_folder(BASE), max_length=LENGTH), {})
        self.model.add_task(self.task.definition, fit_head(self.model.encoder, self.task).state)
        without_dropout(self.model)
        self.settings = Settings(batch_size=args.batch, learning_rate=RATE, epochs=1, precision=args.precision,
                                 keep="last", device="cpu")  # fmt: skip

    def batches(self) -> list[list[int]]:
        feed = TrainingRun(self.model, [self.task], self.settings).feeds[0]
        return [feed.batch(number) for number in range(feed.batches)]

    def seconds(self) -> float:
        started = time.process_time()
        run = TrainingRun(self.model, [self.task], self.settings)
        while not run.schedule.finished:
            run.one_step()
        return time.process_time() - started


def pair_of(row: Any, target: Any) -> tuple[str, str, float]:
    """Two texts and their score; of a query, it and its passage."""
    if not isinstance(target, Mapping):
        return row[0], row[1], float(target)
    query, passages = row
    return query, passages[next(iter(target))], 1.0


class Theirs:
    """The trainer of sentence-transformers, on the batches of the other."""

    def __init__(self, task: Task, batches: list[list[int]], args: argparse.Namespace, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
        from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
        from sentence_transformers.base.sampler import DefaultBatchSampler
        from sentence_transformers.sentence_transformer import losses

        class InOrder(DefaultBatchSampler):
            def __iter__(self) -> Any:
                yield from (list(range(n, n + args.batch)) for n in range(0, len(order), args.batch))

        order = [row for batch in batches for row in batch]
        split = task.splits["train"]
        pairs = [pair_of(split.inputs[row], split.targets[row]) for row in order]
        rows = dict(zip(("one", "other", "score"), map(list, zip(*pairs, strict=True)), strict=True))
        if args.loss == "ranking":
            del rows["score"]
        self.model = SentenceTransformer(str(find_folder(BASE)), device="cpu")
        self.model.max_seq_length = LENGTH
        without_dropout(self.model)
        named = {"cosent": losses.CoSENTLoss, "mse": losses.CosineSimilarityLoss,
                 "ranking": losses.MultipleNegativesRankingLoss}  # fmt: skip
        settings = Arguments(
            str(folder), per_device_train_batch_size=args.batch, num_train_epochs=1, learning_rate=RATE, use_cpu=True,
            bf16=args.precision == "bf16", batch_sampler=InOrder, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, warmup_steps=0.1,
        )  # fmt: skip
        self.make = lambda: SentenceTransformerTrainer(
            model=self.model, args=settings, train_dataset=Dataset.from_dict(rows), loss=named[args.loss](self.model)
        )

    def seconds(self) -> float:
        trainer = self.make()
        started = time.process_time()
        trainer.train()
        return time.process_time() - started


def compare(args: argparse.Namespace) -> None:
    task = load_task(args.data, args.batch * args.steps, args.loss)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(task, args)
        theirs = Theirs(task, ours.batches(), args, Path(folder))
        ratios = []
        for block in range(args.blocks + 1):
            both = {}
            for name, one in (
                (("ours", ours), ("theirs", theirs)) if block % 2 else (("theirs", theirs), ("ours", ours))
            ):
                both[name] = one.seconds()
            if block:  # the first is a warm-up
                ratios.append(both["theirs"] / both["ours"])
                print(f"ours {both['ours']:.2f} s, theirs {both['theirs']:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"{args.loss}, {args.precision}, {args.steps} steps of {args.batch} pairs: ratio "
          f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")  # fmt: skip


def step_memory(args: argparse.Namespace) -> None:
    """The highest memory of one step, above that of the model and its rows."""
    task = load_task(args.data, 256)
    model = MultiTaskModel(load_encoder(find_folder(BASE), max_length=LENGTH), {})
    model.add_task(task.weighed(agree="cosent").definition)
    settings = Settings(batch_size=256, learning_rate=RATE, epochs=1, chunk=args.chunk, heads="tuned", precision="fp32",
                        device="cpu")  # fmt: skip
    run = TrainingRun(model, [task], settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    run.one_step()
    seconds = time.process_time() - started
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"chunk {args.chunk}: {(highest - before) / 1024:.0f} MiB above {before / 1024:.0f}, {seconds:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--loss", choices=("cosent", "mse", "ranking"), default="cosent")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    for name, value in {"batch": 32, "steps": 20, "blocks": 5, "chunk": -1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.chunk >= 0:
        step_memory(args)
    elif args.memory:
        for chunk in (0, 64, 16):
            subprocess.run([sys.executable, __file__, "--data", str(args.data), "--chunk", str(chunk)], check=True)
    else:
        compare(args)


if __name__ == "__main__":
    main()
