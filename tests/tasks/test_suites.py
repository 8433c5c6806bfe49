"""Suites: from Python, from files, built in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allround.core import registry
from allround.core.errors import AllroundError
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.tasks.suites.digits import LOOPS, SEGMENTS
from allround.tasks.task import SPLITS, Task

DATA = os.environ.get("ALLROUND_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="set ALLROUND_DATA to a folder with the data of text11")


def task(name: str = "mood") -> Task:
    rows = [{"x": f"row {i}", "y": "ab"[i % 2]} for i in range(20)]
    return make_task(name, kind="classification", inputs="x", target="y", data={"train": rows})


def write_suite(folder: Path) -> Path:
    for where, split, count in (("rows", "train", 40), ("rows", "test", 10), ("own/mood", "train", 30)):
        (folder / where).mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"x": f"{split} {i}", "y": "ab"[i % 2], "z": i}) for i in range(count)]
        (folder / where / f"{split}.jsonl").write_text("\n".join(lines))
    path = folder / "moods.yml"
    path.write_text(
        "base: some-base\n"
        "limit: {train: 20, test: 5}\n"
        "tasks:\n"
        "  mood: {source: rows, local: mood, kind: classification, inputs: x, target: y, limit: {test: 8}}\n"
        "  size: {source: {path: rows}, kind: regression, inputs: x, target: z}\n"
    )
    return path


def sizes(suite: Suite) -> dict[str, list[int]]:
    return {name: [len(t.splits[s]) for s in SPLITS] for name, t in suite.tasks.items()}


def test_a_suite_from_python() -> None:
    suite = Suite("moods", [task("one"), task("two")], base="b", description="d")
    assert list(suite.tasks) == ["one", "two"] and (suite.base, suite.description) == ("b", "d")
    assert suite.notes["one"][0].startswith("only train was given")
    with pytest.raises(AllroundError, match="two of its tasks are called 'one'"):
        Suite("moods", [task("one"), task("one")])
    with pytest.raises(AllroundError, match="it has no tasks"):
        Suite("moods", [])
    with pytest.raises(AllroundError, match="not safe"):
        Suite("../moods", [task()])


def test_a_suite_from_a_file(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    suite = Suite.load(path)
    assert (suite.name, suite.base) == ("moods", "some-base")
    assert sizes(suite) == {"mood": [20, 4, 8], "size": [20, 4, 5]}
    assert suite.notes["mood"] == ("no validation was given: a seeded draw of the 40 train rows makes validation (4)",)
    assert sizes(Suite.load(str(path), limit={"train": 7, "validation": 1})) == {"mood": [7, 1, 8], "size": [7, 1, 5]}
    assert sizes(Suite.load(path, only=["size"])) == {"size": [20, 4, 5]}
    local = Suite.load(path, data_dir=tmp_path / "own")
    assert sizes(local) == {"mood": [20, 3, 3], "size": [20, 4, 5]}
    assert Suite.load(path).tasks["mood"].content == suite.tasks["mood"].content


def test_refusals(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    with pytest.raises(AllroundError, match="did you mean 'digits'"):
        Suite.load("digit")
    with pytest.raises(AllroundError, match="the file is not there"):
        Suite.load("nowhere/x.yml")
    with pytest.raises(AllroundError, match="did you mean 'mood'"):
        Suite.load(path, only=["moood"])
    with pytest.raises(AllroundError, match="did you mean 'parity'"):
        Suite.load("digits", only=["parrity"])
    with pytest.raises(AllroundError, match="there is no such folder"):
        Suite.load(path, data_dir=tmp_path / "none")
    with pytest.raises(AllroundError, match="did you mean 'train'"):
        Suite.load("digits", only=["ink"], limit={"trian": 3})
    (tmp_path / "own" / "mood" / "train.jsonl").write_text("{")
    with pytest.raises(AllroundError, match=r"load the task 'mood': read .*train.jsonl(.|\n)*line 1 is not readable"):
        Suite.load(path, data_dir=tmp_path / "own")
    path.write_text(path.read_text().replace("local: mood", "local: ../rows"))
    with pytest.raises(AllroundError, match=r"load the task 'mood'(.|\n)*points outside the data folder"):
        Suite.load(path, data_dir=tmp_path / "own")


@pytest.mark.parametrize("name", registry.names("suite"))
def test_built_in_suites_take_the_same_arguments(name: str) -> None:
    entry = registry.find("suite", name)
    assert [p.name for p in entry.parameters] == ["data_dir", "only", "limit"]
    assert entry.summary and entry.source


# The digits.


@pytest.fixture(scope="module")
def digits() -> Suite:
    return Suite.load("digits")


def pixels(one: Task, split: str) -> Any:
    return np.stack([np.asarray(row[0], dtype=np.float64) for row in one.splits[split].inputs])


def decoded(one: Task, split: str) -> list[Any]:
    from allround.tasks.kind import kind

    return kind(one.definition.kind).decode(one.splits[split].targets, one.definition)


def test_all_questions_share_images_and_splits(digits: Suite) -> None:
    assert list(digits.tasks) == [
        "digit", "parity", "large", "loops", "rotated", "mirrored", "inverted", "noisy", "ink", "slant", "segments",
    ]  # fmt: skip
    assert digits.base == "small_image" and digits.notes == {}
    assert set(map(tuple, sizes(digits).values())) == {(1078, 270, 449)}
    for split in SPLITS:
        plain = pixels(digits.tasks["digit"], split)
        assert plain.shape[1:] == (8, 8) and plain.max() == 255 and plain.min() == 0
        assert np.array_equal(pixels(digits.tasks["segments"], split), plain)
        assert np.array_equal(pixels(digits.tasks["rotated"], split), np.rot90(plain, axes=(1, 2)))
        assert np.array_equal(pixels(digits.tasks["mirrored"], split), plain[:, :, ::-1])
        assert np.array_equal(pixels(digits.tasks["inverted"], split), 255 - plain)
        noise = pixels(digits.tasks["noisy"], split) - plain
        assert 20 < noise.std() < 48


def test_answers_follow_from_the_digit(digits: Suite) -> None:
    identity = [int(d) for d in decoded(digits.tasks["digit"], "test")]
    assert decoded(digits.tasks["parity"], "test") == ["odd" if d in (1, 3, 5, 7, 9) else "even" for d in identity]
    assert decoded(digits.tasks["large"], "test") == ["large" if d > 4 else "small" for d in identity]
    assert decoded(digits.tasks["loops"], "test") == [str(LOOPS[d]) for d in identity]
    assert [d for d in range(10) if LOOPS[d] == 0] == [1, 2, 3, 5, 7] and LOOPS[8] == 2
    assert decoded(digits.tasks["segments"], "test") == [list(SEGMENTS[d]) for d in identity]
    for name in ("rotated", "mirrored", "inverted", "noisy"):
        assert decoded(digits.tasks[name], "test") == [str(d) for d in identity]
    ink = pixels(digits.tasks["digit"], "test").mean((1, 2)) / 255
    assert decoded(digits.tasks["ink"], "test") == pytest.approx(ink.tolist())


def test_slant_is_the_shear_of_the_ink() -> None:
    from allround.tasks.suites.digits import _slant

    upright = np.zeros((8, 8), np.uint8)
    upright[1:7, 3] = 200
    diagonal = np.diag(np.full(8, 9, np.uint8))
    other = diagonal[:, ::-1]
    assert _slant(np.stack([upright, diagonal, other])) == pytest.approx([0, 1, -1])


def test_every_question_can_be_learned_from_the_pixels(digits: Suite) -> None:
    from sklearn.linear_model import Ridge, RidgeClassifier

    for name, one in digits.tasks.items():
        train, test = ((pixels(one, s).reshape(-1, 64) / 255, one.splits[s].targets) for s in ("train", "test"))
        if one.definition.kind == "regression":
            score, least = Ridge(0.1).fit(*train).score(*test), 0.8
        elif one.definition.kind == "multilabel":
            parts = [RidgeClassifier().fit(train[0], t) for t in train[1].T]
            score = np.mean([p.score(test[0], t) for p, t in zip(parts, test[1].T, strict=True)])
            least = 0.9
        else:
            score, least = RidgeClassifier().fit(*train).score(*test), 0.8
        assert score > least, (name, score)


def test_only_and_limit_of_the_digits() -> None:
    suite = Suite.load("digits", only=["ink", "digit"], limit={"train": 10, "test": 20})
    assert sizes(suite) == {"digit": [10, 270, 20], "ink": [10, 270, 20]}
    assert set(suite.tasks["digit"].splits["train"].targets.tolist()) == set(range(10))


# The published texts.


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("name", "count"), [("text8", 8), ("text11", 11)])
def test_the_text_suites_load_from_a_folder(name: str, count: int) -> None:
    suite = Suite.load(name, data_dir=Path(str(DATA)))
    assert (suite.name, suite.base, len(suite.tasks)) == (name, "all-MiniLM-L6-v2", count)
    for one in suite.tasks.values():
        assert len(one.splits["train"]) == 1000 and len(one.splits["validation"]) == 300
    labels = {n: t.definition.labels for n, t in suite.tasks.items()}
    assert labels["trec"] == ("abbreviation", "description", "entity", "human", "location", "number")
    assert len(labels["banking77"]) == 77 and labels["mrpc"] == ("different", "paraphrase")
    assert suite.tasks["mrpc"].definition.pair
    if count == 11:
        assert labels["sick_entailment"] == ("contradiction", "entailment", "neutral")
        assert labels["ner_disease"] == ("O", "B-Disease", "I-Disease")
        assert 1 < suite.tasks["sick_relatedness"].definition.center < 5


def hub_rows(name: str, config: str | None) -> Any:
    """Rows with the columns and codes that the Hub's sets have."""
    import datasets
    from datasets import ClassLabel, Sequence

    text, two, three = "a text", [0, 1], [0, 1, 2]
    equal = ["not equivalent", "equivalent"]
    columns: dict[str, dict[str, Any]] = {
        "CogComp/trec": {"text": text, "coarse_label": range(6), "fine_label": [0]},
        "SetFit/sst2": {"text": text, "label": two, "label_text": ["negative", "positive"]},
        "SetFit/subj": {"text": text, "label": two, "label_text": ["objective", "subjective"]},
        "SetFit/mrpc": {"text1": text, "text2": text, "label": two, "idx": [3], "label_text": equal},
        "allenai/scicite": {"string": text, "sectionName": text, "label": three},
        "PolyAI/banking77": {"text": text, "label": range(77)},
        "cardiffnlp/tweet_eval": {"text": text, "label": range(4) if config == "emotion" else two},
        "sick": {"sentence_A": text, "sentence_B": text, "label": three, "relatedness_score": [1.5, 4.0]},
        "ncbi_disease": {"tokens": [["a", "b"]], "ner_tags": [[0, 1], [1, 2]]},
    }
    tweets = ["anger", "joy", "optimism", "sadness"] if config == "emotion" else ["non_irony", "irony"]
    codes: dict[str, dict[str, Any]] = {
        "CogComp/trec": {"coarse_label": ClassLabel(names=["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"])},
        "allenai/scicite": {"label": ClassLabel(names=["method", "background", "result"])},
        "PolyAI/banking77": {"label": ClassLabel(num_classes=77)},
        "cardiffnlp/tweet_eval": {"label": ClassLabel(names=tweets)},
        "sick": {"label": ClassLabel(names=["entailment", "neutral", "contradiction"])},
        "ncbi_disease": {"ner_tags": Sequence(ClassLabel(names=["O", "B-Disease", "I-Disease"]))},
    }
    count = 4 * 77
    part = datasets.Dataset.from_dict(
        {
            column: [f"{column} {i}" for i in range(count)] if v is text else [v[i % len(v)] for i in range(count)]
            for column, v in columns[name].items()
        }
    )
    for column, feature in codes.get(name, {}).items():
        part = part.cast_column(column, feature)
    return {"train": part}


def test_the_text_suites_fit_the_columns_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, revision: hub_rows(name, config))
    suite = Suite.load("text11")
    assert list(suite.tasks)[:8] == list(Suite.load("text8").tasks)
    labels = {n: t.definition.labels for n, t in suite.tasks.items()}
    assert labels["trec"] == ("abbreviation", "description", "entity", "human", "location", "number")
    assert labels["sst2"] == ("negative", "positive") and labels["mrpc"] == ("different", "paraphrase")
    assert labels["subj"] == ("objective", "subjective") and labels["irony"] == ("irony", "non_irony")
    assert labels["emotion"] == ("anger", "joy", "optimism", "sadness")
    assert labels["scicite"] == ("background", "method", "result")
    assert labels["sick_entailment"] == ("contradiction", "entailment", "neutral")
    assert labels["ner_disease"] == ("O", "B-Disease", "I-Disease")


def test_all_problems_of_all_tasks_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;size;label\n" + "".join(f"row {i};{i};a\n" for i in range(20)) + "x;big;\n")
    task = {"source": "a.csv", "kind": "classification", "inputs": "text", "target": "label"}
    tasks = {
        "mood": task,
        "gone": {**task, "source": {"path": "b.csv"}},
        "size": {**task, "kind": "regression", "inputs": ["size", "text"], "modality": "table", "target": "label"},
    }
    (tmp_path / "s.yml").write_text(json.dumps({"tasks": tasks}))
    with pytest.raises(AllroundError) as caught:
        Suite.load(tmp_path / "s.yml")
    for words in (
        "asked: load the suite 's'\nfound: 4 problems\n1. make the task 'mood': target 'label' of train is",
        "2. load the task 'gone': read",
        "3. make the task 'size': target 'label' of train is missing",
        "4. make the task 'size': input 'size' holds numbers, and something else in 1 of 21 rows of train: 'big'",
    ):
        assert words in str(caught.value), str(caught.value)
