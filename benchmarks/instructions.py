"""Searches that only their instructions tell apart: one pool of passages, and queries that are asked in two ways.

    python benchmarks/instructions.py --data DATA --out runs/instructions

DATA holds the folders banking77 and trec with JSONL files of their splits. A message of a bank's customer is to find
the words of its intent (bank_intents) or messages of the same intent (bank_messages); a question is to find the words
of the sort of its answer (trec_sorts) or questions of that sort (trec_questions). All four search the passages of all.

Each way trains all-MiniLM-L6-v2 on the four at once, with the defaults of training: with or without instructions, and
with or without what is relevant to the same query in the other search as a negative. Prints ndcg@10 of the test queries
and how many of them have a passage of the right sort in the first place, both in percent, with 95% intervals over
queries. Models with instructions are asked with the right one, in the words of training and in two others that none is
trained with, with none, and with that of the other search over the same queries. The way "several" is trained with four
instructions for each search; "re-ranked" adds a cross-encoder that is trained on its candidates with the same words.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from embedders import words
from retrieval import rows_of, same_label, write

import allround as ar
from allround.models.base import find_folder, load_encoder
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.systems.reranked import Reranked
from allround.tasks.metric import score_of
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

INSTRUCTIONS = {
    "bank_intents": "Find the name of what the bank customer wants:",
    "bank_messages": "Find messages of other bank customers who want the same:",
    "trec_sorts": "Find the name of the sort of answer that is asked for:",
    "trec_questions": "Find other questions that ask for the same sort of answer:",
}
#: Those that training has beside them in the way "several".
REWORDINGS = {
    "bank_intents": (
        "Which label describes this customer's message best?",
        "Retrieve a short title of the customer's problem.",
        "I need the category that this message to a bank belongs to.",
    ),
    "bank_messages": (
        "Retrieve a customer's message that asks for the same as this one.",
        "Which other messages have the same intent?",
        "I want to read what people with this problem wrote to their bank.",
    ),
    "trec_sorts": (
        "Which label says what kind of answer this question wants?",
        "Retrieve the category of the answer to this question.",
        "I want to sort questions. Name the group that this one goes into.",
    ),
    "trec_questions": (
        "Retrieve a question whose answer is of the same kind.",
        "Which questions are of the same category as this one?",
        "I want to read more questions like this, about other things.",
    ),
}
#: The same, as somebody else may say it; nothing is trained with these.
OTHER_WORDS = {
    "bank_intents": "In a few words, what is this customer's request about?",
    "bank_messages": "Who else wrote to the bank about this?",
    "trec_sorts": "Which type of thing would answer this?",
    "trec_questions": "Show me similar questions, with answers of this type:",
}
YET_OTHER_WORDS = {
    "bank_intents": "Give the topic under which the bank files this message:",
    "bank_messages": "Look up similar requests that customers have sent before:",
    "trec_sorts": "Tell me the answer's type:",
    "trec_questions": "Look up what else people ask that is answered in the same way:",
}
#: The other search over the same queries.
OTHER = {
    "bank_intents": "bank_messages",
    "bank_messages": "bank_intents",
    "trec_sorts": "trec_questions",
    "trec_questions": "trec_sorts",
}
#: By the name of a way: how many instructions a task has, and how many negatives come from the other search; None for a
#: model that is not trained.
WAYS: Mapping[str, tuple[int, int | None]] = {
    "base": (1, None),
    "plain": (0, 0),
    "plain, negatives": (0, 1),
    "told": (1, 0),
    "told, negatives": (1, 1),
    "several, negatives": (4, 1),
    "several, negatives, re-ranked": (4, 1),
}
#: The two that are compared however they are asked.
ONE, SEVERAL = "told, negatives", "several, negatives"
RERANKED = "several, negatives, re-ranked"


def make(data: Path, out: Path, sizes: dict[str, int], each: Mapping[str, int]) -> None:
    """The folders of the four searches, and the suite file. each: passages of a label in the searches for texts."""
    for name, texts, names in (
        ("banking77", "bank_messages", "bank_intents"),
        ("trec", "trec_questions", "trec_sorts"),
    ):
        corpus, queries = same_label(data, name, each[name], sizes)
        label = {
            row["text"]: row["label"] for split in ("train", "validation", "test") for row in rows_of(data, name, split)
        }
        write(out / texts, corpus, queries)
        of_label = {one: one.replace("_", " ") for one in sorted(set(label.values()))}
        write(out / names, of_label, {split: [(q, [label[q]]) for q, _ in found] for split, found in queries.items()})
    tasks = "".join(f"  {name}: {{kind: retrieval, source: {{path: {name}}}}}\n" for name in INSTRUCTIONS)
    (out / "suite.yml").write_text(f"name: instructions\ntasks:\n{tasks}")


def trained(
    suite: ar.Suite, way: str, out: Path, seed: int = 0, epochs: int | None = None
) -> MultiTaskModel | Reranked:
    """The system of a way. out: a folder for the two stages of one that re-ranks."""
    told, negatives = WAYS[way]
    tasks = [with_instructions(task, told) for task in suite.pooled(negatives or 0)]
    model = MultiTaskModel(
        load_encoder(find_folder("all-MiniLM-L6-v2"), max_length=64), {t.name: t.definition for t in tasks}
    )
    if negatives is not None:
        train(model, tasks, Settings(device="cpu", epochs=epochs), seed=seed)
    if way != RERANKED:
        return model
    model.save(out / "retriever")
    tasks = [replace(task, splits={**task.splits, "test": task.splits["test"].take(range(8))}) for task in tasks]
    ar.rerank(ar.Suite("instructions", tasks), retriever=out / "retriever", out=out / "re-ranked", seed=seed,
              base="all-MiniLM-L6-v2", settings=Settings(device="cpu"), encoder={"max_length": 64})  # fmt: skip
    made = ar.load(out / "re-ranked")
    assert isinstance(made, Reranked)
    return made


def with_instructions(task: Task, told: int) -> Task:
    if not told:
        return task
    words = {"instruction": INSTRUCTIONS[task.name], "rewordings": REWORDINGS[task.name][: told - 1]}
    return replace(task, definition=replace(task.definition, **words))


def found(
    model: MultiTaskModel | Reranked, suite: ar.Suite, asked: Mapping[str, Mapping[str, str]], most: int | None = None
) -> dict[str, np.ndarray]:
    """Of each task and test query ndcg@10, and whether the first passage is of the right sort, in percent:
    (2, tasks, queries). asked: ways to ask, each with the instruction of each task. most: queries of a task."""
    made: dict[str, list[list[list[float]]]] = {how: [] for how in asked}
    first = model.retriever if isinstance(model, Reranked) else model
    assert isinstance(first, MultiTaskModel)
    with first.searcher.keeping():
        for task in suite.pooled():
            split = task.splits["test"].take(range(len(task.splits["test"]))[:most])
            for how, said in asked.items():
                ranked = model.instructed(task.name, said[task.name]).answers(task.name, split.inputs).predictions
                scores = [score_of(task.definition, [t], [p]) for t, p in zip(split.targets, ranked, strict=True)]
                made[how].append([scores, [float(p[0].startswith(f"{task.name}/")) for p in ranked]])
    return {how: 100 * np.array(values).swapaxes(0, 1) for how, values in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=60, help="training queries of a task")
    parser.add_argument(
        "--test", type=int, default=120, help="test queries of a task; a quarter as many for validation"
    )
    parser.add_argument("--ways", default=";".join(WAYS), help="with semicolons between them")
    parser.add_argument("--asked", type=int, help="so many test queries of a task alone; re-ranking many takes long")
    parser.add_argument("--epochs", type=int, help="of training, in place of the default")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sizes = {"train": asked.train, "validation": asked.test // 4, "test": asked.test}
    make(asked.data, asked.out, sizes, {"banking77": 2, "trec": 6})
    suite = ar.Suite.load(asked.out / "suite.yml")
    none = dict.fromkeys(INSTRUCTIONS, "")
    wrong = {task: INSTRUCTIONS[other] for task, other in OTHER.items()}
    known: dict[str, np.ndarray] = {}
    for way in asked.ways.split(";"):
        began = time.process_time()
        most = asked.asked if way == RERANKED else None
        about = [asked.train, asked.test, asked.seed, *([asked.epochs] if asked.epochs else []), most or "all"]
        kept = asked.out / f"{way}_{'_'.join(map(str, about))}.npz"
        if not kept.is_file():
            ways = {"right": INSTRUCTIONS, "other words": OTHER_WORDS, "yet other words": YET_OTHER_WORDS,
                    "none": none, "wrong": wrong} if WAYS[way][0] else {"none": none}  # fmt: skip
            made = trained(suite, way, asked.out, asked.seed, asked.epochs)
            np.savez(kept, **found(made, suite, ways, most))
        for how, values in np.load(kept).items():
            gains, sorts = values[..., : asked.asked]
            known[f"{way}, {how}"] = gains
            each = (f"{task} {words(one[None])}" for task, one in zip(INSTRUCTIONS, gains, strict=True))
            print(f"{way}, {how}: {', '.join(each)}")
            print(f"    mean {words(gains)}; of the right sort {words(sorts)}", flush=True)
        print(f"    {time.process_time() - began:.0f} s of the processor", flush=True)
    for way in (ONE, SEVERAL, RERANKED):
        right = known.get(f"{way}, right")
        for name, values in known.items() if right is not None else ():
            if name != f"{way}, right":
                print(f"{way}, right minus {name}: {words(right - values)}")
    for name, values in known.items():
        for way, less in ((SEVERAL, ONE), (RERANKED, SEVERAL)):
            other = name.replace(way, less)
            if other != name and other in known:
                print(f"{name} minus {other}: {words(values - known[other])}")


if __name__ == "__main__":
    main()
