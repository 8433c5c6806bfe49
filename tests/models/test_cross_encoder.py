"""Models that read pairs together, as a `CrossEncoder` of sentence-transformers: the same scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.head import make_head
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite

NUMBER = Definition("alike", "similarity", ("one", "other"), "text", "spearman", center=3.0, scale=2.0)
LABELS = Definition("alike", "classification", ("one", "other"), "text", "accuracy", ("no", "perhaps", "yes"))
ROWS = [("the soup is fine", "a fine soup"), ("ada saw the owl", "the market was dull and cold"), ("a", "b")]


def saved(bert_folder: Path, folder: Path, definition: Definition, sort: str, pairs: str = "joint") -> MultiTaskModel:
    encoder = load_encoder(bert_folder, pairs=pairs)
    torch.manual_seed(0)
    head = make_head(sort, definition, encoder.features(definition))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.1)
    model = MultiTaskModel(encoder, {})
    model.add_task(definition, head.stored())
    model.eval().save(folder)
    return model


@pytest.mark.parametrize("sort", ["linear", "mlp", "mlp_relu", "mlp_tanh", "sigmoid"])
@pytest.mark.parametrize("definition", [NUMBER, replace(NUMBER, kind="regression"), LABELS], ids=lambda d: d.kind)
def test_sentence_transformers_gives_the_same_scores(
    definition: Definition, sort: str, bert_folder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    if sort == "sigmoid" and definition.labels:
        with pytest.raises(AllroundError, match="gives numbers from 0 to 1"):
            saved(bert_folder, tmp_path / "cross", definition, sort)
        return
    model = saved(bert_folder, tmp_path / "cross", definition, sort)
    other = CrossEncoder(str(tmp_path / "cross"), device="cpu", local_files_only=True)
    found = other.predict(ROWS)
    wanted = model.outputs("alike", ROWS).logits.numpy()
    if definition.labels:
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-5)
        assert [definition.labels[n] for n in found.argmax(1)] == model.predict("alike", ROWS)
    else:
        np.testing.assert_allclose(found, model.predict("alike", ROWS), atol=1e-5)
        ranked = other.rank(ROWS[0][0], [b for _, b in ROWS])
        assert [one["corpus_id"] for one in ranked] == list(
            np.argsort(other.predict([(ROWS[0][0], b) for _, b in ROWS]))
        )[::-1]
    again = load(tmp_path / "cross")
    assert again.predict("alike", ROWS) == model.predict("alike", ROWS)
    assert not list((tmp_path / "cross" / "cross_encoder").glob("*/pytorch_model.bin"))
    size = sum(file.stat().st_size for file in (tmp_path / "cross" / "cross_encoder").rglob("*.safetensors"))
    assert size < 20_000, "the encoder's weights are not there twice"


def test_models_that_are_no_cross_encoder_have_no_such_files(
    bert_folder: Path, text_suite: Suite, tmp_path: Path
) -> None:
    saved(bert_folder, tmp_path / "apart", LABELS, "linear", pairs="separate")
    saved(bert_folder, tmp_path / "told", replace(LABELS, instruction="compare:"), "linear")
    encoder = load_encoder(bert_folder, pairs="joint")
    mood = text_suite["mood"].definition
    MultiTaskModel(encoder, {LABELS.name: LABELS, mood.name: mood}).save(tmp_path / "two")
    MultiTaskModel(encoder, {mood.name: mood}).save(tmp_path / "single")
    for name in ("apart", "told", "two", "single"):
        assert not (tmp_path / name / "modules.json").exists(), name
