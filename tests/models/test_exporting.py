"""Models as ONNX graphs: the numbers of torch, for every head and way of reading rows, also by bare onnxruntime."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import allround
from allround.core import registry
from allround.core.errors import AllroundError
from allround.models import exporting
from allround.models.base import load_encoder, open_encoder
from allround.models.encoders.module import Module
from allround.models.encoders.multitab import Multitab
from allround.models.encoders.sharing import Sharing
from allround.models.encoders.small_image import SmallImage
from allround.models.exporting import CLOSE, Exported, difference, export_onnx
from allround.models.share.plan import Choice, Insert, Mixing, Plan
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.suite import Suite
from allround.tasks.task import Task

#: Heads that give numbers, which a graph can hold.
HEADS = [
    name
    for name in registry.names("head")
    if (facts := registry.find("head", name).facts)["reads"] == "vectors"
    and not (facts["pairs"] or facts["ranks"] or facts["bounded"])
]


def drawn(model: MultiTaskModel) -> MultiTaskModel:
    """The model with heads that are not zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.heads.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def same(model: MultiTaskModel, folder: Path, tasks: dict[str, Task]) -> None:
    """The export gives the model's numbers for test rows, and its answers."""
    made = open_model(folder)
    assert set(made.definitions) <= set(tasks) and made.definitions
    for name in made.definitions:
        rows = tasks[name].splits["test"].inputs[:20]
        one, other = model.outputs(name, rows, batch_size=8), made.outputs(name, rows, batch_size=8)
        assert one.lengths == other.lengths and difference(one.logits, other.logits) < CLOSE, name
        if tasks[name].definition.labels:
            assert made.predict(name, rows) == model.predict(name, rows)


@pytest.fixture(scope="module")
def texts(
    bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MultiTaskModel, Exported]:
    """A model that reads texts, pairs of texts, and words, and its export."""
    definitions = {n: t.definition for n, t in text_suite.tasks.items()}
    definitions["alike"] = replace(definitions["alike"], head="similarity")
    model = drawn(MultiTaskModel(load_encoder(bert_folder), definitions))
    return model, export_onnx(model, tmp_path_factory.mktemp("texts") / "model")


def test_texts_pairs_and_words_share_weights(texts: tuple[MultiTaskModel, Exported], text_suite: Suite) -> None:
    model, made = texts
    same(model, made.folder, text_suite.tasks)
    assert made.furthest < CLOSE and len(made.graphs) == 3
    assert sorted(task for some in made.graphs.values() for task in some) == sorted(model.definitions)
    weights = (made.folder / "encoder" / "model.onnx.data").stat().st_size
    numbers = 4 * sum(p.numel() for p in model.encoder.parameters())
    assert weights < 1.2 * numbers + 4096 * 60  # once, though three graphs use them
    assert open_model(made.folder).cost() == model.cost()


def test_tasks_that_read_rows_alike_are_answered_together(
    texts: tuple[MultiTaskModel, Exported], text_suite: Suite
) -> None:
    model, made = texts
    whole = open_model(made.folder)
    rows = text_suite.tasks["mood"].splits["test"].inputs[:6]
    names = [name for name in model.definitions if model.reading(name) == model.reading("mood")]
    one, other = model.answer_tasks(names, rows), whole.answer_tasks(names, rows)
    for name in names:
        assert np.allclose(one[name].predictions, other[name].predictions, rtol=CLOSE)


def test_the_graph_needs_nothing_but_onnxruntime(texts: tuple[MultiTaskModel, Exported], text_suite: Suite) -> None:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    model, made = texts
    file = next(file for file, tasks in made.graphs.items() if "mood" in tasks)
    session = InferenceSession(made.folder / "encoder" / file)
    tokenizer = Tokenizer.from_file(str(made.folder / "encoder" / "tokenizer.json"))
    tokenizer.no_padding()
    row = text_suite.tasks["mood"].splits["test"].inputs[0]
    ids = np.array([tokenizer.encode(row[0]).ids])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (found,) = session.run(["outputs.mood"], {one.name: given[one.name] for one in session.get_inputs()})
    assert difference(model.outputs("mood", [row]).logits, torch.from_numpy(found)) < CLOSE


def test_every_head_is_in_the_graph(small_image: SmallImage, digits_suite: Suite, tmp_path: Path) -> None:
    from onnxruntime import InferenceSession

    task = digits_suite.tasks["digit"]
    assert len(HEADS) >= 4
    definitions = {head: replace(task.definition, name=head, head=head) for head in HEADS}
    model = drawn(MultiTaskModel(copy.deepcopy(small_image), definitions))
    made = export_onnx(model, tmp_path / "model")
    same(model, made.folder, dict.fromkeys(HEADS, task))
    rows = task.splits["test"].inputs[:4]
    images = torch.stack(small_image.prepare(rows, definitions["linear"])).numpy()
    session = InferenceSession(made.folder / "encoder" / "model.onnx")
    for head, found in zip(HEADS, session.run([f"outputs.{h}" for h in HEADS], {"images": images}), strict=True):
        assert difference(model.outputs(head, rows).logits, torch.from_numpy(found)) < CLOSE


def test_an_encoder_with_features_by_task_has_a_graph_for_each(table_suite: Suite, tmp_path: Path) -> None:
    first = next(iter(table_suite.tasks.values()))
    encoder = Multitab.create(first.splits["train"].inputs, first.definition, 0, width=8, depth=1, heads=2)
    model = drawn(MultiTaskModel(encoder, {n: t.definition for n, t in list(table_suite.tasks.items())[:2]}))
    with torch.no_grad():
        for number, token in enumerate(encoder.tokens):
            token.copy_(torch.full_like(token, 0.3 * number))
    made = export_onnx(model, tmp_path / "model")
    assert sorted(map(tuple, made.graphs.values())) == sorted((name,) for name in model.definitions)
    same(model, made.folder, table_suite.tasks)
    rows = first.splits["test"].inputs[:5]
    together = open_model(made.folder).answer_tasks(list(model.definitions), rows)
    for name, answers in model.answer_tasks(list(model.definitions), rows).items():
        assert np.allclose(together[name].predictions, answers.predictions, rtol=CLOSE)


def test_whole_numbers_of_8_bits_take_less(texts: tuple[MultiTaskModel, Exported], tmp_path: Path) -> None:
    model, whole = texts
    small = export_onnx(model, tmp_path / "small", tasks=["mood"], int8=True)
    assert list(small.graphs.values()) == [["mood"]] and list(open_model(small.folder).definitions) == ["mood"]
    # Matrices of 32 columns, whose scales take as much as a quarter of them, and biases as they were.
    assert (small.folder / "encoder" / "model.onnx.data").stat().st_size < 0.7 * (
        whole.folder / "encoder" / "model.onnx.data"
    ).stat().st_size
    assert CLOSE < small.furthest < 1
    assert open_model(small.folder).facts["exported"] == {"precision": "int8", "furthest": small.furthest}


def test_a_graph_that_is_far_from_the_model_is_an_error(
    small_image: SmallImage, digits_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = drawn(MultiTaskModel(copy.deepcopy(small_image), {"digit": digits_suite.tasks["digit"].definition}))
    graph = exporting._graph

    def wrong(*given: object) -> object:
        weight = model.encoder.get_parameter("layers.0.weight")
        with torch.no_grad():
            weight.add_(0.1)
        try:
            return graph(*given)  # type: ignore[arg-type]
        finally:
            with torch.no_grad():
                weight.sub_(0.1)

    monkeypatch.setattr(exporting, "_graph", wrong)
    with pytest.raises(AllroundError, match="differ by"):
        export_onnx(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_cannot_be_exported(texts: tuple[MultiTaskModel, Exported], tmp_path: Path) -> None:
    model, made = texts
    with pytest.raises(AllroundError, match="mod"):
        export_onnx(model, tmp_path / "model", tasks=["mod"])
    with pytest.raises(AllroundError, match="in a way that no graph can hold"):
        Module(nn.Linear(2, 2), dim=2).write_rows(tmp_path)
    with pytest.raises(AllroundError, match="cannot be tuned"):
        open_encoder(str(made.folder), [], 0, {})
    assert not (tmp_path / "model").exists()


def damage_name(folder: Path) -> None:
    about = json.loads((folder / "encoder" / "allround_encoder.json").read_text())
    about["settings"]["graphs"] = {"../model.onnx": ["mood"]}
    (folder / "encoder" / "allround_encoder.json").write_text(json.dumps(about))


def damage_graph(folder: Path) -> None:
    (folder / "encoder" / "model.onnx").write_bytes(b"no graph")


def damage_weights(folder: Path) -> None:
    (folder / "encoder" / "model.onnx.data").write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_name, damage_graph, damage_weights])
def test_a_damaged_export_says_so(
    damage: Callable[[Path], None], texts: tuple[MultiTaskModel, Exported], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(texts[1].folder, folder)
    damage(folder)
    with pytest.raises(AllroundError, match="load the"):
        allround.load(folder)


def test_modules_of_each_tasks_own_are_in_its_graph(bert_folder: Path, text_suite: Suite, tmp_path: Path) -> None:
    names = ["mood", "topics"]
    torch.manual_seed(0)
    own = Insert("sublayers", Mixing(Choice("bottleneck"), owners="tasks", sees="own"))
    encoder = Sharing(load_encoder(bert_folder), Plan(inserts=(own,)), [names], [32])
    model = drawn(MultiTaskModel(encoder, {name: text_suite[name].definition for name in names}))
    generator = torch.Generator().manual_seed(2)
    for name in names:
        for value in encoder.own(name).values():
            value.data.copy_(0.2 * torch.randn(value.shape, generator=generator))
    made = export_onnx(model, tmp_path / "model")
    assert sorted(made.graphs.values()) == [["mood"], ["topics"]]
    same(model, made.folder, {name: text_suite[name] for name in names})
    alone = drawn(MultiTaskModel(load_encoder(bert_folder), {"mood": text_suite["mood"].definition}))
    rows = text_suite["mood"].splits["test"].inputs[:4]
    assert difference(alone.outputs("mood", rows).logits, model.outputs("mood", rows).logits) > 0.01
