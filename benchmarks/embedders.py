"""Ways to make one embedder for four searches: shared weights, copies for each task, instructions, late interaction.

    python benchmarks/embedders.py --data DATA --out runs/embedders

DATA and the searches are those of benchmarks/retrieval.py, of which bank_intents, bank_messages, trec and emotion are
taken. Each way trains all-MiniLM-L6-v2 on all of them at once, with the defaults of training. Prints ndcg@10 of the
test queries in percent, and the mean over them with its difference from shared weights, with 95% intervals over
queries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from retrieval import INSTRUCTIONS, make

import allround as ar
from allround.models.base import find_folder, load_encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.contrast import Contrast
from allround.tasks.metric import score_of
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.sharing import shared_by
from allround.training.trainer import train

TASKS = ("bank_intents", "bank_messages", "trec", "emotion")
#: What stands before passages in the way of INSTRUCTOR.
PASSAGES = {
    "bank_intents": "Represent the words of what a bank customer wants:",
    "bank_messages": "Represent the bank customer's message to be found by messages that ask the same:",
    "trec": "Represent the question to be found by others that ask for the same sort of answer:",
    "emotion": "Represent the message to be found by others with the same emotion:",
}
#: By the name of a way: whether it is trained, has instructions, masks them, its loss, and how it shares.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "base": {"trained": False},
    "shared": {},
    "scimult": {"share": "scimult"},
    "instructions": {"told": True},
    "many_to_many": {"contrast": {"loss": "many_to_many"}},
    "base_tokens": {"trained": False, "contrast": {"compare": "tokens"}},
    "tokens": {"contrast": {"compare": "tokens"}},
    "uwe": {"contrast": {"loss": "many_to_many", "compare": "tokens"}},
    "instructor": {"told": True, "masked": True, "contrast": {"loss": "instructor", "mined": 4}},
}


def told(task: Task, way: Mapping[str, Any]) -> Task:
    """The task with the instructions and the loss of a way."""
    definition = task.definition
    if way.get("told"):
        definition = replace(definition, instruction=INSTRUCTIONS[task.name])
    if "contrast" in way:
        before = PASSAGES[task.name] if way.get("told") else ""
        definition = replace(definition, contrast=Contrast(**way["contrast"], passage_instruction=before))
    return replace(task, definition=definition)


def gains(model: MultiTaskModel, task: Task) -> np.ndarray:
    """ndcg@10 of each test query, in percent."""
    split = task.splits["test"]
    found = model.answers(task.name, split.inputs).predictions
    return np.array(
        [100 * score_of(task.definition, [target], [said]) for target, said in zip(split.targets, found, strict=True)]
    )


def trained(suite: ar.Suite, names: list[str], way: Mapping[str, Any], seed: int) -> np.ndarray:
    """`gains` of each task, of a model that was trained in a way."""
    tasks = [told(suite[task], way) for task in names]
    more = {"instructions": "masked"} if way.get("masked") else {}
    encoder = load_encoder(find_folder("all-MiniLM-L6-v2"), max_length=64, **more)
    model = MultiTaskModel(encoder, {task.name: task.definition for task in tasks})
    settings = Settings(device="cpu", share=way.get("share", "hard"))
    if way.get("trained", True):
        model, settings = shared_by(model, settings, tasks, seed)
        train(model, tasks, settings, seed=seed)
    return np.array([gains(model, task) for task in tasks])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=60, help="training queries of a task")
    parser.add_argument("--test", type=int, default=100, help="test queries of a task")
    parser.add_argument("--share", type=float, default=0.3, help="of the passages")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sizes = {"train": asked.train, "validation": asked.test // 3, "test": asked.test}
    make(asked.data, asked.out, sizes, asked.share)
    suite = ar.Suite.load(asked.out / "plain.yml")
    shared: np.ndarray | None = None
    tasks = asked.tasks.split(",")
    of = "" if tuple(tasks) == TASKS else "_" + "_".join(tasks)
    for name in asked.ways.split(","):
        way, began = WAYS[name], time.process_time()
        kept = asked.out / f"{name}_{asked.train}_{asked.test}_{asked.share}_{asked.seed}{of}.npy"
        found = np.load(kept) if kept.is_file() else trained(suite, tasks, way, asked.seed)
        np.save(kept, found)
        shared = found if name == "shared" else shared
        print(f"{name}: " + ", ".join(f"{task} {words(one[None])}" for task, one in zip(tasks, found, strict=True)))
        print(f"    mean {words(found)}" + (f"; minus shared {words(found - shared)}" if shared is not None else "")
              + f"; {time.process_time() - began:.0f} s of the processor", flush=True)  # fmt: skip


def words(values: np.ndarray) -> str:
    """The mean over tasks of their means, (tasks, queries), with its 95% interval over the queries of each."""
    rng = np.random.default_rng(0)
    count = values.shape[1]
    means = np.mean([one[rng.integers(0, count, (2000, count))].mean(1) for one in values], 0)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
