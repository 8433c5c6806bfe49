"""Mined pairs: new ones, near ones and drawn ones, answered by a teacher; the options --teacher and --mine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from allround.building.mining import mine, vectors_of, with_mined
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite

WORDS = ("soup", "bread", "plum", "cat", "dog", "owl")


def write_suite(folder: Path) -> Path:
    rows = [{"one": f"the {a} is fine", "other": f"a {b} was warm", "score": float((i + j) % 5)}
            for i, a in enumerate(WORDS) for j, b in enumerate(WORDS) if (i + j) % 3 == 0]  # fmt: skip
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pairs.yml").write_text(
        "tasks:\n  alike:\n    source: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}\n"
        "    kind: similarity\n    inputs: [one, other]\n    target: score\n")  # fmt: skip
    return folder / "pairs.yml"


def test_near_texts_are_paired(bert_folder: Path, tmp_path: Path) -> None:
    rows = Suite.load(write_suite(tmp_path))["alike"].splits["train"].inputs
    encoder = load_encoder(bert_folder)
    found = mine(encoder, rows, 2)
    firsts, seconds = (list(dict.fromkeys(row[side] for row in rows)) for side in (0, 1))
    assert not {*found} & {*rows} and len({*found}) == len(found) == len(firsts) * 3
    u, v = (F.normalize(vectors_of(encoder, [str(one) for one in texts]), dim=-1) for texts in (firsts, seconds))
    cosines = (u @ v.T).numpy()
    for number, first in enumerate(firsts):
        own = [seconds.index(second) for one, second in found if one == first]
        free = [place for place in range(len(seconds)) if (first, seconds[place]) not in {*rows}]
        assert own[:2] == sorted(free, key=lambda place: -cosines[number, place])[:2]
    assert mine(encoder, rows, 2) == found and mine(encoder, rows, 2, seed=1) != found


def test_a_teacher_answers_mined_rows(bert_folder: Path, tmp_path: Path) -> None:
    suite = Suite.load(write_suite(tmp_path))
    definition = suite["alike"].definition
    teacher = MultiTaskModel(load_encoder(bert_folder, pairs="joint"), {"alike": definition})
    with torch.no_grad():
        teacher.output_head("alike").weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    teacher.save(tmp_path / "teacher")
    more = with_mined(suite, str(bert_folder), tmp_path / "teacher", 1)["alike"]
    before, split = suite["alike"].splits["train"], more.splits["train"]
    added = split.inputs[len(before) :]
    assert split.inputs[: len(before)] == before.inputs and added and "were mined" in more.notes[-1]
    taught = np.asarray(split.targets)[len(before) :] * definition.scale + definition.center
    np.testing.assert_allclose(taught, teacher.predict("alike", added), atol=1e-5)
    with pytest.raises(AllroundError, match="too few"):
        with_mined(suite, str(bert_folder), tmp_path / "teacher", 0)


def test_the_options(bert_folder: Path, tmp_path: Path) -> None:
    """A student that reads texts apart learns from a teacher that reads them together."""
    suite = write_suite(tmp_path)
    common = [str(suite), "alike", "--base", str(bert_folder), "--epochs", "1"]
    alone = CliRunner().invoke(app, ["tune", *common, "--mine", "2", "--out", str(tmp_path / "no")])
    assert alone.exit_code and "no teacher is given" in str(alone.exception or alone.output)
    for name, more in (
        ("cross", ["--pairs", "joint"]),
        ("fast", ["--teacher", str(tmp_path / "cross"), "--mine", "1"]),
    ):
        ran = CliRunner().invoke(app, ["tune", *common, *more, "--out", str(tmp_path / name)])
        assert ran.exit_code == 0, ran.output
    fast = load(tmp_path / "fast")
    assert isinstance(fast, MultiTaskModel) and fast.head("alike").sort == "similarity"
    assert fast.facts["made_by"]["settings"]["terms"] == {"distillation": {"teacher": str(tmp_path / "cross")}}  # type: ignore[index]
    assert fast.facts["made_by"]["rows"]["alike"] == 12 + 6 * 2  # type: ignore[index]
