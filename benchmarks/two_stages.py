"""Two stages beside one, on banking77: a message finds the name of its intent among 77.

The retriever is the base as it is, or tuned on the same messages; the cross-encoder is tuned from the same base on the
retriever's own candidates. Prints ndcg of both with intervals, the interval of the paired difference, and milliseconds
of a query.

    python benchmarks/two_stages.py --data data/banking77 --out runs/two --train 400 --test 300
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import allround
from allround.building.rerank import rerank
from allround.evaluation.predict import predict_split
from allround.models.base import find_folder, load_encoder
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.metric import row_scores
from allround.training.settings import Settings

BASE = "all-MiniLM-L6-v2"


def read_task(folder: Path, train: int, test: int) -> allround.Task:
    """Messages as queries, the 77 names of intents as passages."""
    data = {}
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        data[split] = [{"message": row["text"], "intent": [row["label"]]} for row in rows]
    names = sorted({row["intent"][0] for row in data["train"]})
    passages = {name: name.replace("_", " ") for name in names}
    made = allround.make_task("intent", kind="retrieval", inputs="message", target="intent", data=data,
                              passages=passages)  # fmt: skip
    return made.limit({"train": train, "validation": 100, "test": test})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--tuned", action="store_true", help="tune the retriever first")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    task = read_task(given.data, given.train, given.test)
    suite = allround.Suite("banking", [task])
    given.out.mkdir(parents=True, exist_ok=True)
    first, two = given.out / f"first-{given.seed}", given.out / f"two-{given.seed}"
    if not first.exists():
        if given.tuned:
            allround.tune(suite, out=first, base=BASE, seed=given.seed)
        else:
            MultiTaskModel(load_encoder(find_folder(BASE)), {"intent": task.definition}).save(first)
    if not two.exists():
        rerank(suite, retriever=first, out=two, base=BASE, candidates=given.candidates, seed=given.seed,
               settings=Settings())  # fmt: skip
    found = {}
    for name, folder in (("one stage", first), ("two stages", two)):
        system = load(folder)
        started = time.perf_counter()
        made = predict_split(system, task.as_defined(system.definition("intent")), "test")
        seconds = time.perf_counter() - started
        found[name] = np.asarray(row_scores(made.definition, made.targets, made.predictions))
        print(f"{name}: ndcg@10 {interval(found[name])}, {1000 * seconds / len(made):.1f} ms a query, "
              f"{system.cost().parameters_stored:,} parameters", flush=True)  # fmt: skip
    print(f"difference: {interval(found['two stages'] - found['one stage'])}")


def interval(values: np.ndarray, draws: int = 2000) -> str:
    """The mean x 100 with the 95% interval of a bootstrap over queries."""
    generator = np.random.default_rng(0)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
