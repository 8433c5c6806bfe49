"""What a merge does beside a finished one, and what it says of a base that was forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import allround
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.merging.diff import diff
from allround.merging.named_base import named_base


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """A base, two models tuned from it with heads of their own, and a network of another architecture."""
    found = {}
    for number, (name, labels) in enumerate({"base": 0, "one": 2, "two": 3, "other": 0}.items()):
        found[name] = folder = tmp_path / name
        folder.mkdir()
        tensors = {"layer.weight": torch.full((2, 2), float(number))}
        tensors |= {"classifier.weight": torch.ones(labels, 2)} if labels else {}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "roberta" if name == "other" else "bert"}))
    return found


def merge(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["merge", *map(str, words)], env={"COLUMNS": "300"})
    said = str(result.exception) if isinstance(result.exception, AllroundError) else ""
    return result.exit_code, result.output + said


def test_a_finished_merge_is_replaced_only_by_force(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [
        models["base"],
        models["one"],
        models["two"],
        "--on-mismatch",
        "keep-base",
        "-o",
        out,
        "--method",
        "average",
    ]
    assert merge(*words)[0] == 0
    assert load_file(out / "model.safetensors").keys() == {"layer.weight"}, "heads that the base lacks are left out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    code, said = merge(*words)
    assert code == 0 and "(was there already)" in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "nothing was written"
    other = [*words[:-1], "task_arithmetic"]
    code, said = merge(*other)
    assert code != 0 and "another finished merge is there" in said and "--force" in said
    with pytest.raises(AllroundError, match="another finished merge"):
        allround.merge([models["one"]], base=models["base"], method="average", on_mismatch="keep-base", out=out)
    (out / "mine.txt").write_text("the user's")
    code, said = merge(*other)
    assert code != 0 and "mine.txt" in said and (out / "mine.txt").read_text() == "the user's"
    (out / "mine.txt").unlink()
    assert merge(*other, "--force")[0] == 0
    assert json.loads((out / "merge.json").read_text())["method"] == "task_arithmetic"


def test_heads_of_other_shapes_have_a_way_out_in_the_same_command(models: dict[str, Path], tmp_path: Path) -> None:
    code, said = merge(models["base"], models["one"], models["two"], "-o", tmp_path / "out")
    assert code != 0 and "not in the base (classifier.weight)" in said and "--on-mismatch keep-base" in said
    code, said = merge(models["one"], models["two"], "--no-base", "-o", tmp_path / "out")
    assert code != 0 and "classifier.weight: (3, 2)" in said and "--on-mismatch skip" in said
    words = [models["one"], models["two"], "--no-base", "--on-mismatch", "skip", "-o", tmp_path / "out"]
    assert merge(*words)[0] == 0
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert made["classifier.weight"].shape == (2, 2), "the head of the first is kept"
    assert torch.equal(made["layer.weight"], torch.full((2, 2), 1.5))


def test_the_classifier_of_one_model_is_taken_where_the_base_has_none(models: dict[str, Path], tmp_path: Path) -> None:
    settings = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "n"}}
    (models["two"] / "config.json").write_text(json.dumps(settings))
    words = [models["base"], models["one"], models["two"], "--method", "average", "-o", tmp_path / "out"]
    code, said = merge(*words)
    assert code != 0 and "to take those of one model: --extra-from MODEL" in said
    code, said = merge(*words, "--extra-from", models["two"])
    assert code == 0 and f"classifier.weight: taken from {models['two']}" in said and "(id2label) differ" not in said
    made, own = load_file(tmp_path / "out" / "model.safetensors"), load_file(models["two"] / "model.safetensors")
    assert torch.equal(made["classifier.weight"], own["classifier.weight"]), "as it is, and no mean"
    assert torch.equal(made["layer.weight"], torch.full((2, 2), 1.5))
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == settings
    assert f"--extra-from {models['two']}" in (tmp_path / "out" / "README.md").read_text()
    code, said = merge(*words, "--extra-from", models["base"])
    assert code != 0 and "it is not one of the models" in said


def test_a_forgotten_base_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (models[name] / "README.md").write_text("---\nlicense: mit\nbase_model: bert-base-uncased\n---\n# A model\n")
    assert str(named_base(models["one"])) == f"'bert-base-uncased' (in {models['one'] / 'README.md'})"
    assert named_base(models["base"]) is None
    code, said = merge(models["one"], models["two"], "-o", tmp_path / "out")
    assert code != 0 and "one is taken as the base, and was itself tuned from 'bert-base-uncased'" in said
    code, said = merge(models["one"], models["two"], "--no-base", "-m", "ties", "-o", tmp_path / "out")
    assert code != 0 and "their files name the base 'bert-base-uncased'" in said
    code, said = merge(models["one"], "-o", tmp_path / "out")
    assert code != 0 and "1 given; their files name the base 'bert-base-uncased'" in said
    (models["two"] / "config.json").write_text(json.dumps({"_name_or_path": str(models["two"])}))
    (models["two"] / "README.md").unlink()
    assert named_base(models["two"]) is None, "a folder that names itself names no base"


def test_a_diff_says_first_that_networks_are_of_other_kinds(models: dict[str, Path]) -> None:
    first = diff(models["base"], [models["one"], models["other"]], spectrum=False).verdict()[0]
    assert first == ("other is a network of another architecture than base (model_type: roberta, in base bert): it was "
                     "not tuned from that base, and does not merge with it.")  # fmt: skip
