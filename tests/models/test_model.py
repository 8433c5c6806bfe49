"""A model of one encoder and a head per task: saving, loading, answering, refusing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from allround import load
from allround.core.errors import AllroundError
from allround.evaluation.predict import predict_alike
from allround.models.batch import Batch, Features
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.head_files import read_heads, write_heads
from allround.models.likelihood import likelihood
from allround.models.manifest import read_manifest
from allround.models.model import parameters_of
from allround.models.running import by_length, features_of
from allround.models.systems.multi_task_model import MultiTaskModel, answer_alike
from allround.tasks.definition import Definition
from allround.tasks.kind import kind
from allround.tasks.suite import Suite
from allround.tasks.task import Split, Task


def random_heads(model: MultiTaskModel, seed: int = 0) -> MultiTaskModel:
    generator = torch.Generator().manual_seed(seed)
    for head in model.heads.values():
        for parameter in head.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def model(small_image: SmallImage, digits_suite: Suite) -> MultiTaskModel:
    definitions = {n: t.definition for n, t in digits_suite.tasks.items()}
    return random_heads(MultiTaskModel(copy.deepcopy(small_image), definitions))


@pytest.fixture
def saved(model: MultiTaskModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit allround.json in place."""
    path = folder / "allround.json"
    value = json.loads(path.read_text())
    edited = edit(value)
    path.write_text(json.dumps(value if edited is None else edited))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(AllroundError) as caught:
        load(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_loaded_answers_are_the_same_bits(model: MultiTaskModel, digits_suite: Suite, tmp_path: Path) -> None:
    model.facts = {"made_by": {"seed": 3}}
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.facts == {"made_by": {"seed": 3}}
    assert loaded.definitions == model.definitions
    assert not loaded.training
    for name, task in digits_suite.tasks.items():
        inputs = task.splits["test"].inputs
        assert torch.equal(model.outputs(name, inputs).logits, loaded.outputs(name, inputs).logits)
        images = [row[0] for row in inputs]
        assert model.predict(name, images) == loaded.predict(name, images)


def test_the_same_model_saves_as_the_same_bytes(model: MultiTaskModel, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model.save(tmp_path / name)
    for file in (p for p in (tmp_path / "one").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()


def test_tables_too(small_table: SmallTable, table_suite: Suite, tmp_path: Path) -> None:
    definitions = {n: t.definition for n, t in table_suite.tasks.items()}
    model = random_heads(MultiTaskModel(copy.deepcopy(small_table), definitions))
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    for name, task in table_suite.tasks.items():
        inputs = task.splits["test"].inputs
        assert torch.equal(model.outputs(name, inputs).logits, loaded.outputs(name, inputs).logits)


def test_answers_are_readable(model: MultiTaskModel, digits_suite: Suite) -> None:
    images = [row[0] for row in digits_suite.tasks["digit"].splits["test"].inputs[:5]]
    assert set(model.predict("digit", images)) <= {str(d) for d in range(10)}
    assert all(isinstance(v, float) for v in model.predict("ink", images))
    assert all(set(labels) <= set("abcdefg") for labels in model.predict("segments", images))
    assert model.predict("digit", []) == []
    assert model.predict("digit", [(image,) for image in images]) == model.predict("digit", images)


def test_numbers_come_back_on_their_own_scale(model: MultiTaskModel, digits_suite: Suite) -> None:
    task = digits_suite.tasks["ink"]
    nn.init.zeros_(model.heads["ink"].weight)
    nn.init.zeros_(model.heads["ink"].bias)
    images = [row[0] for row in task.splits["test"].inputs[:2]]
    assert model.predict("ink", images) == pytest.approx([task.definition.center] * 2)


def test_batches_do_not_change_order_or_answers(model: MultiTaskModel, digits_suite: Suite) -> None:
    inputs = digits_suite.tasks["digit"].splits["test"].inputs
    whole = model.outputs("digit", inputs).logits
    for size in (1, 7, 1000):
        assert torch.allclose(model.outputs("digit", inputs, size).logits, whole, atol=1e-5)
    assert model.outputs("digit", []).logits.shape == (0, 10)


def test_batches_hold_rows_of_like_length(digits_suite: Suite) -> None:
    definition = digits_suite.tasks["ink"].definition
    seen: list[list[int]] = []

    class Lengths(nn.Module):
        def length(self, prepared: int) -> int:
            return prepared

        def batch(self, prepared: list[int], definition: object) -> Batch:
            seen.append(prepared)
            return Batch({"x": torch.tensor(prepared)[:, None].double()}, len(prepared))

        def forward(self, batch: Batch) -> Features:
            return Features(2 * batch.tensors["x"])

    made = features_of(Lengths(), [3, 9, 1, 9, 5], definition, 2)  # type: ignore[arg-type]
    assert seen == [[9, 9], [5, 3], [1]]
    assert made.values.flatten().tolist() == [6, 18, 2, 18, 10] and made.lengths == ()
    halves = features_of(Lengths(), [3, 9, 1], definition, 2, lambda values: values / 2)  # type: ignore[arg-type]
    assert halves.values.flatten().tolist() == [3, 9, 1], "what is computed of the features"
    assert list(by_length([3, 9, 1, 9, 5], 2)) == [[1, 3], [4, 0], [2]]


def test_a_fresh_head_is_zero_and_a_given_head_is_taken(small_image: SmallImage, digits_suite: Suite) -> None:
    definition = digits_suite.tasks["digit"].definition
    model = MultiTaskModel(copy.deepcopy(small_image), {"digit": definition})
    assert not model.heads["digit"].weight.any() and not model.heads["digit"].bias.any()
    head = {"weight": torch.randn(10, 128), "bias": torch.randn(10)}
    model.add_task(definition, head)
    assert torch.equal(model.heads["digit"].weight, head["weight"])
    assert parameters_of(model.heads["digit"]) == 1290


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"weight": torch.zeros(9, 128), "bias": torch.zeros(10)}, "weight is (9, 128)"),
        ({"weight": torch.zeros(10, 64), "bias": torch.zeros(10)}, "weight is (10, 64)"),
        ({"weight": torch.zeros(10, 128), "bias": torch.zeros(9)}, "bias is (9,)"),
        ({"weight": torch.zeros(10, 128)}, "bias is missing"),
        ({}, "weight is missing"),
    ],
)
def test_a_head_of_another_shape_is_refused(
    small_image: SmallImage, digits_suite: Suite, head: dict[str, torch.Tensor], words: str
) -> None:
    model = MultiTaskModel(copy.deepcopy(small_image), {})
    with pytest.raises(AllroundError) as caught:
        model.add_task(digits_suite.tasks["digit"].definition, head)
    assert words in caught.value.found and "digit" in caught.value.asked
    assert "(10" in caught.value.found, "and the shape that it should have"
    assert model.definitions == {}


@pytest.mark.parametrize(
    "name", ["type", "items", "keys", "pop", "forward", "training", "weight", "encoder", "heads", "double", "T-1_x"]
)
def test_any_name_that_is_safe_as_a_file_name_is_a_name_of_a_task(
    small_image: SmallImage, digits_suite: Suite, tmp_path: Path, name: str
) -> None:
    """Also where networks of torch have an attribute of that name."""
    task = digits_suite.tasks["digit"]
    definition = Definition.from_json({**task.definition.to_json(), "name": name})
    model = random_heads(MultiTaskModel(copy.deepcopy(small_image), {name: definition}))
    assert [n for n, _ in model.heads.named_parameters()] == [f"{name}.weight", f"{name}.bias"]
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    inputs = task.splits["test"].inputs
    assert torch.equal(model.outputs(name, inputs).logits, loaded.outputs(name, inputs).logits)
    assert torch.equal(copy.deepcopy(model).outputs(name, inputs).logits, loaded.outputs(name, inputs).logits)


def test_an_unknown_task_is_answered_with_the_nearest(model: MultiTaskModel) -> None:
    for call in (model.definition, lambda name: model.predict(name, []), lambda name: model.outputs(name, [])):
        with pytest.raises(AllroundError, match="did you mean 'digit'"):
            call("digits")


def test_inputs_of_the_wrong_form(model: MultiTaskModel, digits_suite: Suite) -> None:
    image = digits_suite.tasks["digit"].splits["test"].inputs[0][0]
    with pytest.raises(AllroundError, match="input 1 has 2 parts") as caught:
        model.predict("digit", [image, (image, image)])
    assert caught.value.do == "give 1: image"
    with pytest.raises(AllroundError, match="has 0 parts"):
        model.predict("digit", [()])


def test_one_text_is_not_taken_for_many_letters(model: MultiTaskModel) -> None:
    with pytest.raises(AllroundError, match="give a list"):
        model.predict("digit", "a text")


def test_table_rows_of_the_wrong_length(small_table: SmallTable, table_suite: Suite) -> None:
    definition = table_suite.tasks["species"].definition
    model = MultiTaskModel(copy.deepcopy(small_table), {"species": definition})
    row = table_suite.tasks["species"].splits["test"].inputs[0]
    assert len(model.predict("species", [row])) == 1
    with pytest.raises(AllroundError, match="sepal_length, sepal_width, petal_length, size"):
        model.predict("species", [row[:3]])


def test_a_task_that_the_encoder_cannot_read_is_refused(small_image: SmallImage, table_suite: Suite) -> None:
    with pytest.raises(AllroundError, match="it reads image inputs"):
        MultiTaskModel(copy.deepcopy(small_image), {"s": table_suite.tasks["species"].definition})


def test_heads_in_one_file(tmp_path: Path) -> None:
    heads = {n: {"weight": torch.randn(2, 3), "bias": torch.randn(2)} for n in ("a", "a_b", "a-b")}
    write_heads(tmp_path / "heads.safetensors", heads)
    read = read_heads(tmp_path / "heads.safetensors")
    assert set(read) == set(heads)
    assert all(torch.equal(read[n][k], heads[n][k]) for n in heads for k in ("weight", "bias"))


def test_models_that_share_an_encoder_answer_as_each_alone(
    small_image: SmallImage, digits_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, read = [0], SmallImage.forward

    def forward(self: SmallImage, batch: Batch) -> Features:
        calls[0] += 1
        return read(self, batch)

    monkeypatch.setattr(SmallImage, "forward", forward)
    definitions = {n: t.definition for n, t in digits_suite.tasks.items()}
    encoder = copy.deepcopy(small_image)
    models = [random_heads(MultiTaskModel(encoder, definitions), seed) for seed in (1, 2, 3)]
    for name, task in digits_suite.tasks.items():
        rows = encoder.prepare(task.splits["test"].inputs, task.definition)
        labelled = bool(task.definition.labels)
        alone = [model.answer_prepared(name, rows, batch_size=8, scores=labelled) for model in models]
        calls[0] = 0
        together = answer_alike(models, name, rows, batch_size=8, scores=labelled)
        assert calls[0] == -(-len(rows) // 8), "each row goes through the encoder once"
        for one, other in zip(together, alone, strict=True):
            assert len(one) == len(rows) and one.confidence == other.confidence
            assert np.array_equal(one.predictions, other.predictions)
            assert (one.scores is not None) == labelled
            if labelled:
                assert one.scores is not None and other.scores is not None
                assert np.array_equal(np.asarray(one.scores), np.asarray(other.scores))
        nothing = Split([], kind(task.definition.kind).encode([], task.definition))
        none = Task(task.definition, {"test": nothing})
        assert [len(made.predictions) for made in predict_alike(models, none, "test", prepared=[])] == [0, 0, 0]
    with pytest.raises(ValueError, match="encoders of their own"):
        answer_alike([models[0], random_heads(MultiTaskModel(copy.deepcopy(encoder), definitions))], name, rows)


# Saved folders that are broken, or hostile.


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".", "x" * 200, "a\x00", None, 3])
def test_path_tricks_in_task_names(saved: Path, name: Any) -> None:
    change(saved, lambda value: value["tasks"][0].update(name=name))
    refused(saved, "not safe" if isinstance(name, str) else "name: Input should be a valid string")


def test_a_newer_format(saved: Path) -> None:
    change(saved, lambda value: value.update(format=2))
    refused(saved, "format 2", "reads up to 1", "upgrade")


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value.pop("format"),
        lambda value: value.update(format="1"),
        lambda value: value.pop("tasks"),
        lambda value: value.update(tasks=None),
        lambda value: value.update(tasks=[3]),
        lambda value: value["tasks"][0].pop("labels"),
        lambda value: value["tasks"][0].update(surprise=1),
    ],
    ids=["no format", "format of text", "no tasks", "tasks null", "task 3", "no labels", "unknown field"],
)
def test_a_broken_description(saved: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    change(saved, lambda value: (edit(value), None)[1])
    refused(saved, "copy the folder again, whole")


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_description_that_is_none(saved: Path, text: str) -> None:
    (saved / "allround.json").write_text(text)
    refused(saved, str(saved))


@pytest.mark.parametrize("field", ["kind", "metric"])
def test_an_unknown_kind_or_metric(saved: Path, field: str) -> None:
    change(saved, lambda value: value["tasks"][0].update({field: "../x"}))
    if field == "kind":
        refused(saved, "kind '../x' is not one of")
    else:
        load(saved)  # predicting needs no metric


def test_labels_that_do_not_fit_the_head(saved: Path) -> None:
    change(saved, lambda value: value["tasks"][0].update(labels=["a", "b"]))
    refused(saved, "head of task 'digit'", "(10, 128)", "(2, 128)")


def test_a_head_that_is_missing(saved: Path) -> None:
    heads = load_file(saved / "heads.safetensors")
    save_file({k: v for k, v in heads.items() if not k.startswith("ink")}, saved / "heads.safetensors")
    refused(saved, "head of task 'ink'", "missing")


def test_files_that_are_missing(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no such folder")
    refused(saved / "encoder", "has no allround.json", "runs/NAME/best")
    (saved / "encoder" / "model.safetensors").rename(saved / "elsewhere")
    refused(saved, "model.safetensors")
    (saved / "elsewhere").rename(saved / "encoder" / "model.safetensors")
    (saved / "heads.safetensors").unlink()
    refused(saved, "heads.safetensors")


def test_an_encoder_of_other_tensors(saved: Path) -> None:
    path = saved / "encoder" / "model.safetensors"
    weights = load_file(path)
    first = next(iter(weights))
    save_file({**weights, first: torch.zeros(3)}, path)
    refused(saved, "its tensors are not those of the network", first)
    save_file({**weights, "surprise": torch.zeros(3)}, path)
    refused(saved, "surprise")


@pytest.mark.parametrize(
    "config",
    [
        {"encoder": "small_imag", "settings": {}},
        {"encoder": "../small_image", "settings": {}},
        {"encoder": "small_image"},
        {"encoder": "small_image", "settings": []},
        {"encoder": "small_image", "settings": {"surprise": 1}},
        {"encoder": "small_image", "settings": {"channels": -1}},
        {"encoder": None, "settings": {}},
        {"encoder": ["small_image"], "settings": {}},
        [],
        3,
    ],
    ids=str,
)
def test_a_hostile_encoder_description(saved: Path, config: Any) -> None:
    (saved / "encoder" / "allround_encoder.json").write_text(json.dumps(config))
    refused(saved, str(saved / "encoder"))


def test_the_definitions_alone_need_no_weights(saved: Path, digits_suite: Suite) -> None:
    (saved / "heads.safetensors").unlink()
    _, definitions, facts = read_manifest(saved)
    assert definitions == {n: t.definition for n, t in digits_suite.tasks.items()} and facts == {}
    assert likelihood(definitions["digit"]).outputs(definitions["digit"]) == 10


@pytest.mark.parametrize(
    ("suite", "task", "row", "words"),
    [
        ("text_suite", "mood", (3,), "'text' of input 0 is of type int"),
        ("text_suite", "names", ("the cat",), "give a list of words"),
        ("text_suite", "alike", ("one",), "input 0 has 1 parts"),
        ("digits_suite", "digit", ("picture.png",), "give an opened image"),
        ("table_suite", "species", ([1.0], 2.0, 3.0, "small"), "is of type list"),
        ("table_suite", "species", ("wide", 2.0, 3.0, "small"), "'wide' is not a number"),
    ],
)
def test_an_input_of_the_wrong_sort_is_an_error_in_words(
    suite: str, task: str, row: tuple[object, ...], words: str, request: pytest.FixtureRequest
) -> None:
    from allround.models.base import load_encoder

    encoder = {"text_suite": "bert_folder", "digits_suite": "small_image", "table_suite": "small_table"}[suite]
    made = request.getfixturevalue(encoder)
    definition = request.getfixturevalue(suite).tasks[task].definition
    model = MultiTaskModel(load_encoder(made) if suite == "text_suite" else made, {task: definition})
    with pytest.raises(AllroundError, match=words):
        model.predict(task, [row])
