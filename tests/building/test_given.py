"""Specialists that other libraries saved: what is kept of them, what is said, and what is found before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from allround.building.given import GivenSpecialists, read_given
from allround.building.jobs.given import take_specialist
from allround.building.single import evaluate
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.pieces import Pieces
from allround.evaluation.predictions import Predictions
from allround.evaluation.scoreboard import Scoreboard
from allround.models.base import load_encoder
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.suite import Suite
from allround.tasks.task import Task


def rows_of(task: Task, split: str) -> list[dict[str, Any]]:
    """A split as a user's file has it."""
    labels, one = task.definition.labels, task.splits[split]
    found = []
    for (given,), target in zip(one.inputs, one.targets, strict=True):
        words = task.definition.kind == "token_classification"
        label = [labels[int(n)] for n in target] if words else labels[int(target)]
        found.append({"text": list(given) if words else given, "label": label})  # type: ignore[call-overload]
    return found


def tuned(task: Task, base: Path, folder: Path, labels: Mapping[int, str]) -> Any:
    """A classifier, tuned with a plain loop and saved, as a user of transformers would."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

    words = task.definition.kind == "token_classification"
    kind = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
    tokenizer, rows = AutoTokenizer.from_pretrained(str(base)), rows_of(task, "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        numbers = {label: n for n, label in labels.items()}
        model = kind.from_pretrained(str(base), id2label=dict(labels), label2id=numbers, num_labels=len(labels))
        made = tokenizer([r["text"] for r in rows], is_split_into_words=words, padding=True, return_tensors="pt")
        place = {label.lower(): n for label, n in numbers.items()}
        if words:
            targets = torch.full_like(made["input_ids"], -100)
            for i, row in enumerate(rows):
                for at, word in reversed(list(enumerate(made.word_ids(i)))):
                    if word is not None:
                        targets[i, at] = place[row["label"][word].lower()]
        else:
            targets = torch.tensor([place[row["label"]] for row in rows])
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(25):
            optimiser.zero_grad()
            model(**made, labels=targets).loss.backward()
            optimiser.step()
    model.eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return model


@pytest.fixture(scope="module")
def walk(hf_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two classifiers that were tuned from it, and a suite file with their tasks."""
    folder = tmp_path_factory.mktemp("walk")
    shutil.copytree(hf_folder, folder / "base")
    lines = ["name: words", "tasks:"]
    for name, labels in (("mood", {0: "Good", 1: "Bad"}), ("names", None)):
        task = text_suite.tasks[name]
        tuned(task, hf_folder, folder / name, labels or dict(enumerate(task.definition.labels)))
        lines += [
            f"  {name}:",
            f"    kind: {task.definition.kind}",
            "    inputs: text",
            "    target: label",
            "    source:",
        ]
        for split in ("train", "validation", "test"):
            lines.append(f"      {split}: {name}-{split}.jsonl")
            text = "".join(json.dumps(row) + "\n" for row in rows_of(task, split))
            (folder / f"{name}-{split}.jsonl").write_text(text)
    (folder / "suite.yml").write_text("\n".join(lines))
    return folder


@torch.no_grad()
def predictions(folder: Path, texts: list[str]) -> list[str]:
    """What transformers itself answers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    made = AutoTokenizer.from_pretrained(str(folder))(texts, padding=True, return_tensors="pt")
    return [model.config.id2label[int(n)].lower() for n in model(**made).logits.argmax(-1)]


def test_a_build_with_classifiers_as_they_are(walk: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["build", walk / "suite.yml", "--base", walk / "base", "--out", run, "--methods", "average", "--no-joint",
             "--balance", "none", "--workers", 1, "--specialist", f"mood={walk / 'mood'}",
             "--specialist", f"names={walk / 'names'}"]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    said = ("mood: the specialist was given (mood): BertForSequenceClassification; its head is kept: its labels are "
            "those of the task but for capitals (Bad: bad, Good: good)")  # fmt: skip
    assert said in result.output and "2 given specialists taken" in result.output
    assert "names: the specialist was given (names): BertForTokenClassification; its head is kept" in result.output
    board = Scoreboard.load(run)
    assert said.removeprefix("mood: ") in board.notes["tasks"]["mood"]
    found = Predictions.load(run / "predictions" / "specialists" / "mood.parquet")
    rows = [json.loads(line) for line in (walk / "mood-test.jsonl").read_text().splitlines()]
    labels = found.definition.labels
    assert [labels[n] for n in found.predictions] == predictions(walk / "mood", [row["text"] for row in rows])
    assert board.cells["specialists"]["mood"].score > board.cells["floor"]["mood"].score
    assert {"average", "average+heads"} <= {system.name for system in board.systems}
    best = open_model(run / "best")
    assert set(best.definitions) == {"mood", "names"} and best.encoder.first_token == ("mood",)


def taken(given: GivenSpecialists, name: str, task: Task, base: Path, tmp_path: Path) -> MultiTaskModel:
    """The model that a build makes of a given specialist."""

    (tmp_path / "base").mkdir(parents=True)
    load_encoder(base, **given.encoder).save(tmp_path / "base")
    task.save(tmp_path / "task")
    piece = Pieces(tmp_path / "pieces").piece("one", task=name)
    take_specialist(piece, given.tasks[name].to_json(), str(tmp_path / "base"), str(tmp_path / "task"), "linear")
    return open_model(piece.folder)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, of transformers
def test_weights_in_pickles_and_adapters(walk: Path, text_suite: Suite, tmp_path: Path) -> None:
    """Both give what transformers and PEFT give; an adapter's labels are known where a config.json names them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    task = text_suite.tasks["mood"]
    definitions = {"mood": task.definition}
    texts = [str(text) for (text,) in task.splits["test"].inputs]
    shutil.copytree(walk / "mood", tmp_path / "bin")
    model = AutoModelForSequenceClassification.from_pretrained(str(walk / "mood"))
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    given = read_given({"mood": str(tmp_path / "bin")}, definitions, walk / "base", {})
    found = taken(given, "mood", task, walk / "base", tmp_path / "1")
    assert found.predict("mood", texts) == predictions(walk / "mood", texts)

    torch.manual_seed(1)
    start = AutoModelForSequenceClassification.from_pretrained(str(walk / "base"), num_labels=2)
    adapted = get_peft_model(start, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "dense"])).eval()
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name or "classifier" in name:
                value.normal_(std=0.2)
        made = AutoTokenizer.from_pretrained(str(walk / "base"))(texts, padding=True, return_tensors="pt")
        wanted = adapted(**made).logits
    adapted.save_pretrained(str(tmp_path / "lora"))
    given = read_given({"mood": str(tmp_path / "lora")}, definitions, walk / "base", {})
    assert "its labels LABEL_0, LABEL_1 do not say which is which" in given.notes["mood"]
    (tmp_path / "lora" / "config.json").write_text(json.dumps({"id2label": {"0": "good", "1": "bad"}}))
    given = read_given({"mood": str(tmp_path / "lora")}, definitions, walk / "base", {})
    assert "a PEFT adapter; its head is kept" in given.notes["mood"]
    found = taken(given, "mood", task, walk / "base", tmp_path / "2")
    outputs = found.outputs("mood", [(text,) for text in texts]).logits
    torch.testing.assert_close(outputs, wanted[:, [1, 0]], rtol=1e-4, atol=1e-5)  # ours: bad, good


def test_models_of_sentence_transformers_get_a_new_head(walk: Path, text_suite: Suite, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    task = text_suite.tasks["mood"]
    definitions = {"mood": task.definition}
    torch.manual_seed(0)
    network = Transformer(str(walk / "mood"))

    def save(name: str, *modules: Any) -> str:
        SentenceTransformer(modules=[network, *modules], device="cpu").save_pretrained(str(tmp_path / name))
        return str(tmp_path / name)

    dense, base_dense = (Dense(32, 16) for _ in range(2))
    other = save("other", Pooling(32, "cls"), dense)
    given = read_given({"mood": other}, definitions, walk / "base", {})
    words = given.notes["mood"]
    assert "a sentence-transformers model; a head is fitted anew on its frozen encoder (read as the base reads" in words
    assert "Pooling (mean), and not by its own Pooling (cls) and Dense (32 to 16, Tanh))" in words
    found = taken(given, "mood", task, walk / "base", tmp_path / "1")
    assert found.encoder.dim == 32 and found.head("mood").weight.abs().sum() > 0
    # With the base's own modules its dense layer is kept.
    like = save("like", Pooling(32, "mean"), dense, Normalize())
    base = Path(save("base", Pooling(32, "mean"), base_dense, Normalize()))
    (Path(like) / "model_head.pkl").write_bytes(b"not read")
    given = read_given({"mood": like}, definitions, base, {})
    assert "a SetFit model" in given.notes["mood"] and "its head is a pickle" in given.notes["mood"]
    found = taken(given, "mood", task, base, tmp_path / "2")
    wanted = SentenceTransformer(like, device="cpu").encode(["the cat is fine"])
    row = found.encoder.batch(found.encoder.prepare([("the cat is fine",)], task.definition), task.definition)
    np.testing.assert_allclose(found.encoder(row).values.detach().numpy() / 4, wanted, atol=1e-6)  # times sqrt(16)


def test_evaluate_reads_the_head_in_a_folder_or_fits_one(walk: Path, text_suite: Suite) -> None:
    both, mood = text_suite.part(["mood", "names"]), text_suite.part(["mood"])
    board = evaluate(walk / "mood", mood)
    task = mood.tasks["mood"]
    texts = [str(text) for (text,) in task.splits["test"].inputs]
    wanted = [task.definition.labels[int(n)] for n in task.splits["test"].targets]
    right = np.mean([a == b for a, b in zip(predictions(walk / "mood", texts), wanted, strict=True)])
    assert board.cells["model"]["mood"].score == pytest.approx(right)
    assert "the head in the folder (BertForSequenceClassification)" in board.notes["tasks"]["mood"][-1]
    with pytest.raises(AllroundError) as caught:
        evaluate(walk / "mood", both)
    words = "no head for names (it gives one label to a row, and the task wants a label to each word)"
    assert words in caught.value.found
    assert "--fit-heads; or evaluate what it can do: --only mood" in caught.value.do
    board = evaluate(walk / "mood", both, fit_heads=True)
    assert board.cells["model"]["mood"].score == pytest.approx(right)
    assert "a head is fitted on its frozen encoder: validation" in board.notes["tasks"]["names"][-1]
    assert board.cells["model"]["names"].score > board.cells["floor"]["names"].score


def test_all_that_does_not_fit_is_said_at_once(walk: Path, text_suite: Suite, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaModel

    small = BertConfig.from_pretrained(str(walk / "base"))
    for name, change in (("wide", {"hidden_size": 48}), ("deep", {"num_hidden_layers": 3}),
                         ("other", {"num_attention_heads": 4})):  # fmt: skip
        BertForSequenceClassification(BertConfig(**{**small.to_dict(), **change})).save_pretrained(str(tmp_path / name))
    RobertaModel(RobertaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                               intermediate_size=64)).save_pretrained(str(tmp_path / "roberta"))  # fmt: skip
    shutil.copytree(walk / "mood", tmp_path / "moved")
    tokens = json.loads((tmp_path / "moved" / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["cat"], vocabulary["the"] = vocabulary["the"], vocabulary["cat"]
    (tmp_path / "moved" / "tokenizer.json").write_text(json.dumps(tokens))
    (tmp_path / "empty").mkdir()
    definitions = dict.fromkeys(("a", "b", "c", "d", "e", "f"), text_suite.tasks["mood"].definition)
    given = {"a": "wide", "b": "deep", "c": "other", "d": "roberta", "e": "moved", "f": "empty", "g": "wide"}
    with pytest.raises(AllroundError) as caught:
        read_given({n: str(tmp_path / folder) for n, folder in given.items()}, definitions, walk / "base", {})
    found = caught.value.found
    assert caught.value.asked == "use 7 given specialists"
    for words in (
        "37 tensors of other shapes than in the base, such as embeddings.word_embeddings.weight: (99, 48), in the base",
        "16 tensors that the base does not have, such as bert.encoder.layer.2",
        "num_attention_heads is 4 in its config.json, and in the base 2",
        "of the type 'roberta'",
        "2 tokens with other numbers in its vocabulary",
        "neither a config.json nor a modules.json",
        "the suite has no such task",
    ):
        assert words in found
    with pytest.raises(AllroundError, match="the base 'small_table' is not, so it was not tuned from it"):
        read_given({"a": str(walk / "mood")}, definitions, "small_table", {})
