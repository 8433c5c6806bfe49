"""A build on a tiny language model: what its report says of prompts, of each task's several prompts, and of rows."""

from __future__ import annotations

import html
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from language import save_model

from allround.building import Build, Options, build, forecast
from allround.building.budget import scaled
from allround.building.run import forecast_build
from allround.building.runs.report import report
from allround.building.single import evaluate
from allround.building.stages.plan import measure_speed
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.evaluation.predictions import Predictions
from allround.models.language.reading import language_model, read_prompt, read_rows
from allround.models.system import load
from allround.models.systems.ensemble import Ensemble
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.training.settings import Settings

SUITE = """
tasks:
  topic: {source: topic.jsonl, kind: classification, inputs: message, target: topic,
          prompts: ["Message: {message}\\nTopic:", "{message} This is"], choices: {a: "late", b: "lost"}}
  sum: {source: sum.jsonl, kind: text, inputs: note, target: answer, prompt: "{note} =", metric: chrf,
        max_new_tokens: 3}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "s.yml").write_text(SUITE)
    topics = [{"message": f"parcel {n}" + " again" * 40 * (n % 5 == 0), "topic": "ab"[n % 2]} for n in range(30)]
    sums = [{"note": f"{n} + {n + 1}", "answer": str(2 * n + 1)} for n in range(30)]
    for name, rows in {"topic": topics, "sum": sums}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Suite.load(folder / "s.yml", limit={"train": 8, "validation": 4, "test": 8})


@pytest.fixture(scope="module")
def made(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("made")
    save_model(folder / "base", "llama", chat=True)
    settings = Settings(epochs=1, batch_size=8, precision="fp32")
    options = Options(settings=settings, workers=1, methods=("average",), balance=(), trials=1, resamples=100,
                      baselines=False)  # fmt: skip
    return build(suite, out=folder / "run", base=folder / "base", options=options, encoder={"max_length": 48})


def test_every_prompt_of_a_task_is_scored_on_test_and_chosen_by_none(made: Build, suite: Suite) -> None:
    facts = json.loads((made.folder / "report.json").read_text())
    best = str(made.scoreboard.best)
    found = {one["system"]: one for one in facts["prompt_scores"]}
    assert set(found) == {"base", "specialists", best} and all(one["task"] == "topic" for one in found.values())
    model, split = load(made.best), suite.tasks["topic"].splits["test"]
    definition = model.definitions["topic"]
    assert definition.prompt is not None
    shares = []
    for place in range(2):
        model.definitions["topic"] = replace(definition, prompt=definition.prompt.using(place))
        answers = model.predict("topic", [row[0] for row in split.inputs])
        shares.append(float(np.mean(np.array([definition.labels.index(one) for one in answers]) == split.targets)))
    model.definitions["topic"] = definition
    one = found[best]
    assert [score["score"] for score in one["scores"]] == shares
    assert shares[0] == made.scoreboard.cells[best]["topic"].score
    assert one["mean"]["score"] == pytest.approx(np.mean(shares))
    assert one["worst"]["score"] == min(shares) and one["worst"]["template"] == shares.index(min(shares))
    page = html.unescape(made.report.read_text())
    assert "Scores with each prompt" in page
    assert any(words.startswith(f"{best} on topic with 2 prompts: mean ") for words in made.scoreboard.notes["prompts"])
    kept = sorted(path.name for path in (made.folder / "pieces").glob("*-topic-*"))
    assert sum(name.startswith("test-specialists-topic") for name in kept) == 2
    assert sum(name.startswith("validation-specialists-topic") for name in kept) == 1


def test_evaluate_scores_every_prompt_too(made: Build, suite: Suite) -> None:
    notes = evaluate(made.best, suite, measures=["prompt_sensitivity", "levels"]).notes
    (words,) = notes["prompts"]
    spread, *_, level, _ = notes["measures"]
    assert spread.startswith("spread over prompts of topic: ") and level.startswith("level of topic, of 2: ")
    facts = json.loads((made.folder / "report.json").read_text())["prompt_scores"]
    (one,) = [found for found in facts if found["system"] == made.scoreboard.best]
    mean, worst = (f"{100 * one[name]['score']:.1f} [" for name in ("mean", "worst"))
    assert words.startswith(f"model on topic with 2 prompts: mean {mean}") and f", worst {worst}" in words


def test_the_report_shows_a_prompt_as_the_model_reads_it(made: Build) -> None:
    facts = {one["task"]: one for one in json.loads((made.folder / "report.json").read_text())["prompts"]}
    page = html.unescape(made.report.read_text())
    for name, question, answer in (("topic", "Message: parcel", " l"), ("sum", " + ", " ")):
        one = facts[name]
        assert one["text"].startswith("<|user|>") and one["text"].endswith("<|end|><|assistant|>")
        assert question in one["text"] and one["answer"].startswith(answer) and one["answer"].endswith("<|end|>")
        assert one["text"] in page and one["chat"]
    for name in ("specialists", "joint"):
        (trained,) = [part for part in facts["sum"]["trained"] if part["system"] == name]
        assert trained["rows"] == 8 and trained["tokens"] > 8 * 5


def test_rows_that_are_cut_are_counted_and_told(made: Build, suite: Suite) -> None:
    facts = {one["task"]: one for one in json.loads((made.folder / "report.json").read_text())["prompts"]}
    rows = [row for split in suite.tasks["topic"].splits.values() for row in split.inputs]
    long = sum("again" in row[0] for row in rows)
    assert len(rows) == facts["topic"]["rows"] and long == facts["topic"]["cut_rows"] > 1
    log = (made.folder / "log.txt").read_text()
    assert f"topic: an input is cut in {long} of {len(rows)} rows, to 48 tokens" in log and "sum: an input" not in log


def test_answers_that_are_too_long_to_be_written_are_counted(made: Build, suite: Suite) -> None:
    """Three tokens are written at most, and the last of them is an end."""
    encoder, definition = language_model(str(made.folder.parent / "base")), suite.tasks["sum"].definition
    rows = [encoder.prepare(part.inputs, definition, part.targets) for part in suite.tasks["sum"].splits.values()]
    long = sum(len(encoder.asker.renderer.answer(row.texts[0], said[0])) > 2 for part, split in
               zip(rows, suite.tasks["sum"].splits.values(), strict=True) for row, said in
               zip(part, split.targets, strict=True))  # fmt: skip
    count = sum(map(len, rows))
    assert 0 < long <= count and long == sum(row.shortened for part in rows for row in part)
    words = f"the right answer has more tokens than are written (max_new_tokens 3) in {long} of {count} rows"
    assert words in (made.folder / "log.txt").read_text() and words in html.unescape(made.report.read_text())
    with pytest.raises(AllroundError, match="the answers of sum are texts or rankings, which cannot be averaged"):
        forecast_build(suite, base=made.folder.parent / "base", options=Options(ensemble=True))


def test_texts_have_no_mean(made: Build, suite: Suite) -> None:
    best = load(made.best)
    rows = suite.tasks["sum"].splits["test"].inputs[:2]
    assert Ensemble([best]).predict("sum", rows) == best.predict("sum", rows)
    with pytest.raises(AllroundError, match="its answers are texts, which cannot be averaged"):
        Ensemble([best, best]).predict("sum", rows)


def test_the_report_is_made_again_from_its_numbers(made: Build) -> None:
    before = made.report.read_bytes()
    report(made.folder)
    assert made.report.read_bytes() == before


def test_wrong_texts_are_shown_where_none_is_right(made: Build) -> None:
    kept = Predictions.load(made.folder / "predictions" / str(made.scoreboard.best) / "sum.parquet")
    errors = json.loads((made.folder / "report.json").read_text())["errors"]["sum"]
    assert errors["rows"] == len(kept) == errors["wrong"] == 3 and errors["right"] == [], (
        "chrf of no rows is not asked for"
    )
    worst = errors["worst"][0]
    assert worst["answer"] == kept.predictions[worst["row"]][0] and worst["target"] == kept.targets[worst["row"]][0]


def test_tasks_show_prints_the_prompt_as_a_base_reads_it(made: Build, tmp_path: Path) -> None:
    rows = [{"message": f"parcel {n}", "topic": "ab"[n % 2]} for n in range(30)]
    (tmp_path / "topic.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "s.yml").write_text(SUITE.split("  sum:")[0])
    base = made.folder.parent / "base"
    found = CliRunner().invoke(app, ["tasks", "show", str(tmp_path / "s.yml"), "topic", "--base", str(base)])
    assert found.exit_code == 0, found.output
    said = found.output.split("The prompt of the first row (the first of 2), as ")[1]
    assert f"{base} reads it with its chat template (" in said and " tokens):" in said
    assert "\n  <|user|>Message: parcel " in said and "\n  Topic:<|end|><|assistant|>\n  ->  l" in said
    wrong = CliRunner().invoke(app, ["tasks", "show", str(tmp_path / "s.yml"), "topic", "--base", "small_image"])
    assert wrong.exit_code == 1 and "it is not a language model" in str(wrong.exception or wrong.output)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [({}, " lost<|end|>"), ({"kind": "multilabel"}, " no"), ({"head": "linear"}, ""), ({"loss": "choices"}, " lost")],
)
def test_the_right_answer_has_an_end_where_training_teaches_one(
    made: Build, changes: dict[str, str], answer: str
) -> None:
    several = "kind" in changes
    rows = [{"m": f"parcel {n}", "t": ["b"] if several else "b"} for n in range(4)] + [{"m": "x", "t": ["a"] if several
            else "a"}]  # fmt: skip
    task = make_task("t", data=dict.fromkeys(("train", "validation", "test"), rows), inputs="m", target="t",
                     **{"kind": "classification", "choices": {"a": "late", "b": "lost"}, **changes})  # fmt: skip
    encoder = language_model(str(made.folder.parent / "base"))
    read = read_prompt(encoder, task.definition, task.splits["train"])
    assert (read.answer, read.cut, read.chat) == (answer, False, True)
    assert read.text.startswith("<|user|>M: parcel 0\nAnswer:" + "\nlate? Answer yes or no:" * several)
    lengths = read_rows(encoder, task.definition, task.splits["train"].take([0]))
    assert lengths.longest == lengths.prompt == read.tokens * 1.0 or several


def test_a_dry_run_measures_tasks_of_every_kind(made: Build, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 rows are one batch, seen 80 times by each specialist; 16 are two, seen 40 times by the joint model."""

    def of_one_second(*asked: Any) -> dict[str, dict[str, float]]:
        found = measure_speed(*asked)
        assert set(found) == {"topic", "sum"} and all(one["train"] > 0 < one["predict"] for one in found.values())
        return {name: {"train": 1.0, "predict": 0.0} for name in found}

    monkeypatch.setattr(forecast, "measure_speed", of_one_second)
    options = Options(settings=Settings(batch_size=8, precision="fp32"), workers=1, methods=("average",), balance=())
    found = forecast_build(suite, base=made.folder.parent / "base", options=options, encoder={"max_length": 48})
    assert 2 * 8 * 80 + 16 * 40 <= found.seconds < 2 * 8 * 80 + 16 * 40 + 60
    assert found.trainings == ["specialist of topic", "specialist of sum", "joint"]
    assert scaled(suite.tasks["sum"], "train", 0.0) == 8
    lora = replace(options, settings=options.settings.with_(tune="lora", lora_rank=2))
    network = dict(language_model(str(made.folder.parent / "base")).backbone.named_modules())
    layers = [one.weight for name, one in network.items() if name.split(".")[-1].endswith("_proj")]
    less = forecast_build(suite, base=made.folder.parent / "base", options=lora, encoder={"max_length": 48})
    size = sum(4 * 2 * sum(layer.shape) for layer in layers)
    model = sum(path.stat().st_size for path in (made.folder / "pieces").glob("base-*/**/*") if path.is_file())
    assert found.pieces - less.pieces == pytest.approx(3 * (model - size), rel=0.01)


def test_predict_writes_texts_to_the_screen_and_into_files(made: Build, tmp_path: Path) -> None:
    texts = ["1 + 2", "3 + 4", "5 + 6"]
    wanted = load(made.best).predict("sum", texts)
    ask = ["predict", str(made.best), "--task", "sum"]
    found = CliRunner().invoke(app, [*ask, *texts])
    assert found.output == "".join(f"{one}\n" for one in wanted), "an input called `note` is in nobody's way here"
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"note": one}) for one in texts))
    files = [*ask, "--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    refused = CliRunner().invoke(app, files)
    assert refused.exit_code == 1 and not (tmp_path / "out.jsonl").exists()
    assert CliRunner().invoke(app, [*files, "--prefix", "new_"]).exit_code == 0
    lines = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [one["new_prediction"] for one in lines] == wanted and [one["note"] for one in lines] == texts


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "gpt_neox", "gpt2", "gemma"])
def test_other_families_go_through_build_merge_and_predict(suite: Suite, family: str, tmp_path: Path) -> None:
    """Llama and T5 are looked at more closely in test_language.py."""
    base = save_model(tmp_path / "base", family)
    settings = Settings(epochs=1, batch_size=8, precision="fp32", tune="lora")
    options = Options(settings=settings, workers=1, methods=("average", "ties"), balance=(), trials=1, resamples=100,
                      baselines=False)  # fmt: skip
    built = build(suite, out=tmp_path / "run", base=base, options=options)
    systems = set(built.scoreboard.cells)
    assert {"base", "probe", "specialists", "joint", "average", "ties"} <= systems
    pieces = tmp_path / "run" / "pieces"
    specialists = [str(next(pieces.glob(f"specialist-{task}-*")) / "encoder") for task in ("topic", "sum")]
    result = CliRunner().invoke(
        app, ["merge", str(base), *specialists, "-m", "average", "-o", str(tmp_path / "merged")]
    )
    assert result.exit_code == 0, result.output
    merged = load(built.best)
    said = merged.predict("sum", ["3 + 4", "8 + 9"])
    assert len(said) == 2 and all(isinstance(one, str) for one in said)
    assert set(merged.predict("topic", ["parcel 3", "parcel 8"])) <= {"a", "b"}
    alone = [merged.predict("sum", [text])[0] for text in ("3 + 4", "8 + 9")]
    assert said == alone, "rows in one batch are answered as alone"
