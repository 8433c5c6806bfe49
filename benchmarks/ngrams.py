"""One language model for searches of documents and of sentences, by the n-grams that it writes.

    python benchmarks/ngrams.py --data DATA --out runs/ngrams

DATA holds the folder banking77 with JSONL files of its splits. Of 30 intents, a document is five training messages
joined, and a sentence is one of two others; a query is a further message, which finds the document, or the sentences,
of its intent. Trains smollm2-135m on both searches (`--ways both`), and on each by itself (`--ways documents`, or
`sentences`), and prints ndcg@10 with 95% intervals on test queries; `--ways plain` prints those of BM25 (where bm25s is
installed) and of all-MiniLM-L6-v2 as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import allround as ar
from allround.tasks.task import Task

INSTRUCTIONS = {
    "documents": "Find the document of what this bank customer asks for:",
    "sentences": "Find sentences of bank customers who ask for the same:",
}


def searches(data: Path, train: int, test: int, seed: int = 0) -> dict[str, Task]:
    """Both searches; a fifth as many validation queries as test queries."""
    draw = random.Random(seed)
    rows = {
        split: [json.loads(line) for line in (data / "banking77" / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in ("train", "test")
    }
    for some in rows.values():
        draw.shuffle(some)
    intents = sorted({row["label"] for row in rows["train"]})
    kept = sorted(draw.sample(intents, 30))
    of = {split: {label: [r["text"] for r in some if r["label"] == label] for label in kept}
          for split, some in rows.items()}  # fmt: skip
    documents = {label: " ".join(of["train"][label][:5]) for label in kept}
    sentences = {f"{label} {n}": of["train"][label][5 + n] for label in kept for n in range(2)}
    left = [(text, label) for label in kept for text in of["train"][label][7:]]
    asked = [(text, label) for label in kept for text in of["test"][label]]
    draw.shuffle(left)
    draw.shuffle(asked)
    held = test // 5
    queries = {"train": left[:train], "validation": left[train : train + held], "test": asked[:test]}
    found = {}
    for name, passages in (("documents", documents), ("sentences", sentences)):
        own = {label: [one for one in passages if one.split()[0] == label] for label in kept}
        made = {split: [{"query": t, "relevant": own[label]} for t, label in some] for split, some in queries.items()}
        found[name] = ar.make_task(name, kind="retrieval", data=made, inputs="query", target="relevant",
                                   passages=passages, instruction=INSTRUCTIONS[name])  # fmt: skip
    return found


def ndcg(scores: Sequence[float], relevant: Sequence[bool]) -> float:
    """ndcg@10 of one query; of equal scores the first passage."""
    order = np.argsort(-np.asarray(scores), kind="stable")[:10]
    gains = np.asarray(relevant, dtype=float)[order] / np.log2(np.arange(2, 2 + len(order)))
    return float(gains.sum() / (1 / np.log2(np.arange(2, 2 + min(10, sum(relevant))))).sum())


def plain(tasks: dict[str, Task]) -> None:
    """What needs no training."""
    from sentence_transformers import SentenceTransformer

    from allround.models.base import find_folder

    model = SentenceTransformer(str(find_folder("all-MiniLM-L6-v2")), device="cpu")
    for name, task in tasks.items():
        split = task.splits["test"]
        passages = split.inputs[0][1]
        texts = passages.texts()
        queries = [str(row[0]) for row in split.inputs]
        found = {"all-MiniLM-L6-v2": model.encode(queries, normalize_embeddings=True)
                 @ model.encode(texts, normalize_embeddings=True).T}  # fmt: skip
        try:
            import bm25s
        except ImportError:
            print("bm25s is not installed")
        else:
            index = bm25s.BM25()
            index.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
            words = bm25s.tokenize(queries, stopwords=None, show_progress=False, return_ids=False)
            found["bm25"] = np.stack([index.get_scores(one) for one in words])
        for way, scores in found.items():
            each = [ndcg(own, [one in target for one in passages.ids])
                    for own, target in zip(scores, split.targets, strict=True)]  # fmt: skip
            drawn = np.random.default_rng(0).integers(0, len(each), (2000, len(each)))
            low, high = np.quantile(np.asarray(each)[drawn].mean(1), [0.025, 0.975])
            print(f"{way} {name} {100 * np.mean(each):.1f} [{100 * low:.1f}, {100 * high:.1f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=60, help="training queries of a search")
    parser.add_argument("--test", type=int, default=40, help="test queries; a fifth as many for validation")
    parser.add_argument("--ways", default="plain,both,documents,sentences")
    asked = parser.parse_args()
    tasks = searches(asked.data, asked.train, asked.test)
    for way in asked.ways.split(","):
        if way == "plain":
            plain(tasks)
            continue
        some = list(tasks.values()) if way == "both" else [tasks[way]]
        start = time.process_time()
        board = ar.generative(ar.Suite("bank", some), base="smollm2-135m", out=asked.out / way, identifiers="ngrams",
                              settings=ar.Settings(tune="lora", device="cpu"))  # fmt: skip
        print(
            way, f"{time.process_time() - start:.0f} processor seconds", board.to_frame().to_csv(index=False), sep="\n"
        )


if __name__ == "__main__":
    main()
