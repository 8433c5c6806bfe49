"""Image classifiers of transformers: their heads as ours give the logits that transformers gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from allround.building.given import GivenSpecialist, read_given
from allround.building.jobs.given import take_specialist
from allround.building.opening import open_for
from allround.core.pieces import Pieces
from allround.models.base import load_encoder
from allround.models.classifier import IMAGE_LAYOUTS, Classifier, read_config
from allround.models.network import open_network
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite

LABELS = ("cat", "dog", "ship")
TASK = Definition("t", "classification", ("image",), "image", "accuracy", ("dog", "ship", "cat"))
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 8}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4}
NEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
FLAT = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("vit", "deit", "beit"), VIT), **dict.fromkeys(("swin", "swinv2"), SWIN),
    **dict.fromkeys(("convnext", "convnextv2"), NEXT), "resnet": {**FLAT, "layer_type": "basic"},
    "regnet": {**FLAT, "groups_width": 8},
}  # fmt: skip


def saved(kind: str, folder: Path, labels: tuple[str, ...] = LABELS, size: int = 16) -> Any:
    """A classifier with random weights, as transformers saves it."""
    import transformers

    config = transformers.AutoConfig.for_model(
        kind, **SIZES[kind], image_size=size, num_channels=3, id2label=dict(enumerate(labels)),
        label2id={label: n for n, label in enumerate(labels)},
        architectures=["DeiTForImageClassification"] if kind == "deit" else None,  # of which there are two
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("classifier"):
                value.normal_()
    model.save_pretrained(str(folder))
    transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(str(folder))
    return model


def pictures(count: int) -> list[tuple[PIL.Image.Image]]:
    drawn = np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)
    return [(PIL.Image.fromarray(one),) for one in drawn]


@torch.no_grad()
def logits(model: Any, folder: Path, rows: list[tuple[PIL.Image.Image]]) -> Tensor:
    from transformers import AutoImageProcessor

    given = AutoImageProcessor.from_pretrained(str(folder))([image for (image,) in rows], return_tensors="pt")
    found: Tensor = model(**given).logits
    return found


@pytest.mark.parametrize("kind", sorted(IMAGE_LAYOUTS))
def test_a_head_gives_what_transformers_gives(kind: str, tmp_path: Path) -> None:
    model = saved(kind, tmp_path / "model")
    classifier = Classifier.of_config(read_config(tmp_path / "model"))
    assert classifier is not None
    source = open_network(tmp_path / "model", tmp_path / "model")
    match = classifier.match(TASK, source)
    assert match.order == (1, 2, 0), match.words
    encoder = load_encoder(tmp_path / "model", **({"first_token": ["t"]} if classifier.first_token else {}))
    ours = MultiTaskModel(encoder, {})
    ours.add_task(TASK, classifier.head(TASK, match.order, source, encoder.features(TASK)))
    rows = pictures(3)
    found = ours.outputs("t", rows).logits
    wanted = logits(model, tmp_path / "model", rows)[:, [1, 2, 0]]
    assert wanted.std(0).min() > 1e-4, "images differ in their logits"
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    if kind == "vit":  # saved and loaded, it still reads the task at the first token
        ours.save(tmp_path / "ours")
        assert torch.equal(open_model(tmp_path / "ours").outputs("t", rows).logits, found)


def test_a_given_image_classifier_keeps_its_head(digits_suite: Suite, tmp_path: Path) -> None:
    import transformers

    task = next(iter(digits_suite))
    labels = tuple(reversed(task.definition.labels))
    model = saved("vit", tmp_path / "model", labels)
    transformers.ViTModel(model.config).save_pretrained(str(tmp_path / "base"))
    processor = transformers.AutoImageProcessor.from_pretrained(str(tmp_path / "model"))
    processor.save_pretrained(str(tmp_path / "base"))
    given = {task.name: str(tmp_path / "model")}

    def read() -> tuple[GivenSpecialist, object]:
        found = read_given(given, {task.name: task.definition}, tmp_path / "base", {})
        return found.tasks[task.name], found.encoder

    specialist, encoder = read()
    assert specialist.words == "ViTForImageClassification; its head is kept: its labels are those of the task"
    assert encoder == {"first_token": [task.name]}
    load_encoder(tmp_path / "base", first_token=[task.name]).save(tmp_path / "encoder")
    (tmp_path / "task").mkdir()
    task.write(tmp_path / "task")
    piece = Pieces(tmp_path / "pieces").piece("given")
    take_specialist(piece, specialist.to_json(), str(tmp_path / "encoder"), str(tmp_path / "task"), "linear")
    rows = [(image.convert("RGB"),) for (image,) in task.splits["test"].inputs[:5]]  # type: ignore[union-attr]
    wanted = logits(model, tmp_path / "model", rows).flip(1)
    found = open_model(piece.folder).outputs(task.name, task.splits["test"].inputs[:5]).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    told: list[str] = []
    system = open_for(tmp_path / "model", Suite("one", [task]), fit_heads=False, say=told.append)
    assert isinstance(system, MultiTaskModel) and "its labels are those of the task" in told[-1]
    torch.testing.assert_close(system.outputs(task.name, task.splits["test"].inputs[:5]).logits, found)

    file = tmp_path / "model" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.1, 0.1]}))
    specialist, _ = read()
    assert specialist.order is None and "prepares images in another way than the base (image_mean)" in specialist.words
