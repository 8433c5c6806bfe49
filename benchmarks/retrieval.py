"""One embedder for seven retrieval tasks made from labelled texts and pairs: with instructions, and without.

    python benchmarks/retrieval.py --data DATA --out runs/retrieval

DATA holds the folders banking77, mrpc, sick, scicite, trec and emotion with JSONL files of their splits. Makes a folder
of BEIR's layout for each task, and builds twice: without instructions and with one for each task. Prints ndcg@10 with
95% intervals of the base, specialists, the joint model, merges and routed systems, and how many queries a second they
answer (all passages are encoded anew for the queries of a task).

bank_intents: a message finds the words of its intent, among 77. bank_messages: a message finds others of its intent.
mrpc: a sentence finds its paraphrase. sick: a sentence finds those that follow from it. scicite, trec, emotion: a text
finds others with the same purpose of citing, sort of answer, or emotion.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path

import yaml

import allround as ar

SPLITS = {"train": "train", "validation": "dev", "test": "test"}
INSTRUCTIONS = {
    "bank_intents": "Represent the bank customer's message to find what it is about:",
    "bank_messages": "Represent the bank customer's message to find messages that ask the same:",
    "mrpc": "Represent the sentence of news to find a sentence with the same meaning:",
    "sick": "Represent the sentence to find sentences that follow from it:",
    "scicite": "Represent the citing sentence to find others that cite for the same purpose:",
    "trec": "Represent the question to find others that ask for the same sort of answer:",
    "emotion": "Represent the message to find others with the same emotion:",
}
#: A query, and the ids of the passages that are relevant to it.
Query = tuple[str, list[str]]
#: Passages by id, and the queries of each split.
Made = tuple[dict[str, str], dict[str, list[Query]]]


def rows_of(data: Path, name: str, split: str) -> list[dict[str, str]]:
    """The rows of a split, in an order drawn once."""
    rows = [json.loads(line) for line in (data / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    random.Random(f"{name} {split}").shuffle(rows)
    return rows


def same_label(data: Path, name: str, each: int, sizes: dict[str, int]) -> Made:
    """Passages: training texts, so many of each label. Queries: other texts, which find those of their label."""
    corpus: dict[str, str] = {}
    of_label: dict[str, list[str]] = {}
    taken: set[str] = set()
    for row in rows_of(data, name, "train"):
        own = of_label.setdefault(row["label"], [])
        if len(own) < each and row["text"] not in taken:
            own.append(f"p{len(corpus)}")
            corpus[own[-1]] = row["text"]
            taken.add(row["text"])
    queries = {
        split: [(row["text"], of_label[row["label"]]) for row in rows_of(data, name, split) if row["text"] not in taken]
        for split in SPLITS
    }
    return corpus, {split: found[: sizes[split]] for split, found in queries.items()}


def intents(data: Path, sizes: dict[str, int]) -> Made:
    """Passages: the words of the labels of banking77. Queries: messages."""
    words = {row["label"]: row["label"].replace("_", " ") for row in rows_of(data, "banking77", "train")}
    return words, {s: [(r["text"], [r["label"]]) for r in rows_of(data, "banking77", s)][: sizes[s]] for s in SPLITS}


def pairs(data: Path, name: str, columns: tuple[str, str, str], right: str, most: int, sizes: dict[str, int]) -> Made:
    """Passages: second texts of the pairs, so many at most beside those that are looked for. Queries: first texts with
    at least one right pair; a split's queries are none of an earlier one's."""
    first, second, label = columns
    ids: dict[str, str] = {}
    others: list[str] = []
    found: dict[str, list[Query]] = {}
    seen: set[str] = set()
    for split in SPLITS:
        of_query: dict[str, list[str]] = {}
        for row in rows_of(data, name, split):
            if row[label] == right and row[first] not in seen:
                of_query.setdefault(row[first], []).append(row[second])
            else:
                others.append(row[second])
        kept = list(of_query.items())[: sizes[split]]
        seen.update(query for query, _ in kept)
        found[split] = [(q, [ids.setdefault(t, f"p{len(ids)}") for t in dict.fromkeys(texts)]) for q, texts in kept]
    for text in others[:most]:
        ids.setdefault(text, f"p{len(ids)}")
    return {one: text for text, one in ids.items()}, found


def write(folder: Path, corpus: dict[str, str], queries: dict[str, list[Query]]) -> None:
    """A folder of BEIR's layout."""

    def lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    lines(folder / "corpus.jsonl", ({"_id": one, "text": text} for one, text in corpus.items()))
    named = {split: {f"{split}{i}": one for i, one in enumerate(found)} for split, found in queries.items()}
    lines(folder / "queries.jsonl", ({"_id": i, "text": q} for found in named.values() for i, (q, _) in found.items()))
    for split, file in SPLITS.items():
        table = [f"{i}\t{one}\t1" for i, (_, relevant) in named[split].items() for one in relevant]
        (folder / "qrels" / f"{file}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *table]) + "\n")


def make(data: Path, out: Path, sizes: dict[str, int], share: float) -> None:
    """The folders of all tasks, and the two suite files. share: of the passages that there are otherwise."""
    sick, mrpc = ("premise", "hypothesis", "entailment"), ("sentence1", "sentence2", "label")
    write(out / "bank_intents", *intents(data, sizes))
    write(out / "bank_messages", *same_label(data, "banking77", round(share * 10), sizes))
    write(out / "mrpc", *pairs(data, "mrpc", mrpc, "paraphrase", round(share * 500), sizes))
    write(out / "sick", *pairs(data, "sick", sick, "ENTAILMENT", round(share * 500), sizes))
    for name, each in (("scicite", 150), ("trec", 80), ("emotion", 120)):
        write(out / name, *same_label(data, name, round(share * each), sizes))
    for suite, asked in (("plain", {}), ("instructed", INSTRUCTIONS)):
        tasks = {
            name: {"kind": "retrieval", "source": {"path": name}, **({"instruction": asked[name]} if asked else {})}
            for name in INSTRUCTIONS
        }
        text = yaml.safe_dump({"name": suite, "base": "all-MiniLM-L6-v2", "tasks": tasks}, sort_keys=False)
        (out / f"{suite}.yml").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=500, help="training queries of a task")
    parser.add_argument("--test", type=int, default=300, help="test queries of a task; a third as many for validation")
    parser.add_argument("--share", type=float, default=1.0, help="of the passages")
    parser.add_argument("--methods", default="average,task_arithmetic,ties")
    parser.add_argument("--routers", help="routed systems too, such as classifier,task_id")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=64, help="most tokens of a text")
    parser.add_argument("--only", choices=("plain", "instructed"))
    asked = parser.parse_args()
    make(asked.data, asked.out, {"train": asked.train, "validation": asked.test // 3, "test": asked.test}, asked.share)
    for suite in ("plain", "instructed"):
        if asked.only in (None, suite):
            methods = tuple(asked.methods.split(","))
            settings, reading = ar.Settings(epochs=asked.epochs), {"max_length": asked.max_length}
            routers = tuple(asked.routers.split(",")) if asked.routers else None
            options = ar.Options(settings=settings, methods=methods, routers=routers, trials=3, baselines=False,
                                 reference="specialists")  # fmt: skip
            made = ar.build(
                asked.out / f"{suite}.yml", out=asked.out / f"run_{suite}", options=options, encoder=reading
            )
            print(suite, made.scoreboard.to_frame().to_csv(index=False), sep="\n")


if __name__ == "__main__":
    main()
