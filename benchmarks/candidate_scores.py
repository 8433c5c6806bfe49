"""A retriever of demonstrations that learns from a language model, beside one that learns from labels.

    python benchmarks/candidate_scores.py --data DATA

DATA holds the folder trec. Passages are 24 training questions of each sort of answer, with the sort; a query is a
question, and those of its sort are relevant. SmolLM2-135M scores six passages of each training query, two of them
relevant, by the log-likelihood of the right sort behind passage and query. all-MiniLM-L6-v2 learns from these scores
(the term candidate_scores), or from what is relevant (infonce), on the same rows. Prints ndcg@10 and, of the first
passage that each finds for a test query, the mean log-likelihood of the right sort behind it, with 95% intervals over
queries.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from allround.models.base import find_folder, load_encoder
from allround.models.language.candidates import score_candidates
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.metric import score_of
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

LABELS = ("description", "entity", "human", "location", "number")
CONTRAST = {"positives": 2, "negatives": 4}


def load_rows(data: Path, split: str, each: int, skip: int = 0) -> list[tuple[str, str]]:
    """So many questions of each label, with it, in an order drawn once."""
    rows = [json.loads(line) for line in (data / "trec" / f"{split}.jsonl").open(encoding="utf-8")]
    random.Random(split).shuffle(rows)
    of_label = {label: [row["text"] for row in rows if row["label"] == label][skip : skip + each] for label in LABELS}
    found = [(text, label) for label, texts in of_label.items() for text in texts]
    random.Random(split).shuffle(found)
    return found


def labelled(queries: Sequence[tuple[str, str]], passages: Sequence[tuple[str, str]]) -> list[dict[str, object]]:
    """Rows whose relevant passages are those of the query's sort, and four others that are not."""
    ids = {label: [f"p{n}" for n, (_, own) in enumerate(passages) if own == label] for label in LABELS}
    return [
        {"query": query, "top": ids[label], "others": random.Random(query).sample(
            [one for other, some in ids.items() if other != label for one in some], 4)}
        for query, label in queries
    ]  # fmt: skip


def search(rows: Mapping[str, Sequence[Mapping[str, object]]], passages: Sequence[tuple[str, str]]) -> Task:
    corpus = {f"p{n}": f"Question: {text}\nType: {label}" for n, (text, label) in enumerate(passages)}
    return make_task("find", kind="retrieval", inputs="query", target="top", passages=corpus, data=rows,
                     negatives="others" if "others" in rows["train"][0] else "", contrast=CONTRAST)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", type=int, default=10, help="training queries of each label")
    parser.add_argument("--test", type=int, default=12, help="test queries of each label")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    queries = {"train": load_rows(asked.data, "train", asked.train, skip=24),
               "validation": load_rows(asked.data, "validation", 6),
               "test": load_rows(asked.data, "test", asked.test)}  # fmt: skip
    passages = load_rows(asked.data, "train", 24)
    task = search({split: labelled(some, passages) for split, some in queries.items()}, passages)
    answers = {query: label for some in queries.values() for query, label in some}
    speaker = load_encoder(find_folder("smollm2-135m"))
    prompt = "{passage}\n\nQuestion: {query}\nType:"

    scored = score_candidates(task, answers, speaker, prompt=prompt)
    right = [np.mean([max(scores, key=scores.get) in list(target)[:2]]) for scores, target in
             ((one["scores"], target) for one, target in zip(scored, task.splits["train"].targets, strict=True))]  # type: ignore[attr-defined]  # fmt: skip
    print(f"the best of six passages is a relevant one for {100 * np.mean(right):.0f}% of the training queries")
    gains: dict[str, np.ndarray] = {}
    helps: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scores.jsonl"
        file.write_text("\n".join(json.dumps(one) for one in scored), encoding="utf-8")
        for name, terms in (
            ("base", None),
            ("infonce", {}),
            ("candidate_scores", {"candidate_scores": {"file": str(file)}}),
        ):
            model = MultiTaskModel(
                load_encoder(find_folder("all-MiniLM-L6-v2"), max_length=64), {"find": task.definition}
            )
            if terms is not None:
                train(model, [task], Settings(terms=terms, device="cpu"), seed=asked.seed)
            split = task.splits["test"]
            found = model.answers("find", split.inputs).predictions
            gains[name] = np.array([score_of(task.definition, [target], [said]) for target, said in
                                    zip(split.targets, found, strict=True)])  # fmt: skip
            first = [{"query": str(row[0]), "top": [said[0]]} for row, said in zip(split.inputs, found, strict=True)]
            shown = search(dict.fromkeys(queries, first), passages)
            said_of = {one["query"]: one["scores"] for one in score_candidates(shown, answers, speaker, prompt=prompt)}
            helps[name] = np.array([next(iter(said_of[one["query"]].values())) for one in first])  # type: ignore[attr-defined]
            for what, values in (("ndcg@10", gains), ("log-likelihood", helps)):
                print(f"{name}: {what} {words(values[name])}; minus base {words(values[name] - values['base'])}; "
                      f"minus infonce {words(values[name] - values['infonce']) if 'infonce' in values else '-'}",
                      flush=True)  # fmt: skip


def words(values: np.ndarray) -> str:
    """A mean with its 95% interval over queries."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
