"""merge, diff and extract-lora on the command line: what they say, what they write, what they refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError


def cli(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """A base and two models of four weights each; numbers such that results are exact."""
    found = []
    for name, value in {"base": 0.0, "first": 2.0, "second": 4.0}.items():
        folder = tmp_path / name
        folder.mkdir()
        tensors = {f"model.layers.{n}.q_proj.weight": torch.full((4, 4), value * (n + 1)) for n in range(2)}
        tensors |= {
            "model.embed_tokens.weight": torch.full((6, 4), value),
            "model.norm.weight": torch.full((4,), value),
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "float32"}))
        found.append(str(folder))
    return found


def test_a_dry_run_says_all_and_writes_nothing(models: list[str], tmp_path: Path) -> None:
    said = cli("merge", *models, "--keep", "0.5,0.25", "--dry-run", "-o", tmp_path / "out")
    for words in ("TIES", "trim each change", "model.layers.{0-1}.q_proj.weight", "keep=[0.5, 0.25]", "passes",
                  "of memory", str(models[2])):  # fmt: skip
        assert words.removeprefix("TIES") in said
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_what_is_written_says_how_to_do_it_again(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cli("merge", *models, "-m", "average", "--weights", "3,1", "--dtype", "bfloat16", "-o", out)
    assert "merged 2 models by average (weights=[3.0, 1.0], normalize=True)" in said
    merged = load_file(out / "model.safetensors")
    assert {t.dtype for t in merged.values()} == {torch.bfloat16} and merged["model.norm.weight"].tolist() == [2.5] * 4
    assert "bfloat16" in (out / "config.json").read_text()
    card = (out / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("allround merge"))
    again = cli(*line.replace("OUT", str(tmp_path / "again")).split()[1:])
    assert "merged 2 models" in again
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_recipe_with_stages_leaves_only_its_output(models: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        "stages:\n"
        "  both: {base: base, models: [first, second], method: task_arithmetic, parameters: {scale: 0.5}}\n"
        "  final: {base: base, models: [both], method: task_arithmetic, parameters: {scale: 1.0},\n"
        "          rules: [{match: '*norm*', scale: 0.0}]}\n"
    )
    said = cli("merge", recipe, "-o", tmp_path / "out")
    assert "stage 1 of 2: both" in said and "others for some tensors, see merge.json" in said
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged["model.embed_tokens.weight"].unique().tolist() == [3.0]
    assert merged["model.norm.weight"].unique().tolist() == [0.0]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    assert (tmp_path / "out" / "recipe.yml").read_text() == recipe.read_text()
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["tensors"]["model.norm.weight"]["scale"] == 0.0
    assert "stage 2 of 2" in cli("merge", recipe, "--dry-run")


def test_mergekits_file_as_it_is(models: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "config.yaml"
    recipe.write_text(
        f"merge_method: linear\nmodels:\n- model: {models[1]}\n  parameters: {{weight: [0, 1]}}\n"
        f"- model: {models[2]}\n  parameters: {{weight: 1.0}}\ndtype: float32\n"
    )
    cli("merge", recipe, "-o", tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged["model.layers.0.q_proj.weight"].unique().tolist() == [4.0], "t = 0: the second alone"
    assert merged["model.layers.1.q_proj.weight"].unique().tolist() == [6.0], "t = 1: the mean of 4 and 8"


def test_wrong_words(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("base: base\nmodels: [first]\nmethod: average\n")
    for words, match in (
        (("merge", *models), "no --out is given"),
        (("merge", models[0], "-o", out), "give the base and at least one model"),
        (("merge", *models, "--device", "tpu", "-o", out), "no such device"),
        (("merge", *models, "--dtype", "bf16", "-o", out), "no such dtype"),
        (("merge", *models, "--scale", "0,3", "-o", out), "the same for all models"),
        (("merge", *models, "--weights", "1,2,3", "-m", "average", "-o", out), "there are 3 values"),
        (("merge", *models, "--on-mismatch", "skp", "-o", out), "did you mean 'skip'"),
        (("merge", *models, "-m", "slerp", "-o", out), "the method takes 1 beside the base"),
        (("merge", *models, "-m", "fisher", "-o", out), "needs statistics of the kind 'fisher'"),
        (("merge", *models, "--workers", "0", "-o", out), "give at least 1"),
        (("merge", *models, "--compat", "mergekit", "-o", out), "give a recipe file of mergekit's"),
        (("merge", recipe, "--method", "ties", "-o", out), "write it into the recipe file"),
        (("merge", recipe, models[1], "-o", out), "write everything into the recipe file"),
        (("merge", models[0], tmp_path / "nowhere", "-o", out), "open the model"),
        (("merge", *models, "-o", models[1]), "choose another --out"),
        (("diff", models[0], tmp_path / "nowhere"), "nowhere"),
        (("extract-lora", models[1], models[0], "--rank", "0", "-o", out), "a rank is a whole number"),
    ):
        with pytest.raises(AllroundError, match=match):
            cli(*words)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_notes_on_what_is_probably_not_meant(models: list[str], tmp_path: Path) -> None:
    said = cli("merge", *models, models[1], "-m", "average", "-o", tmp_path / "out")
    assert f"note: {models[1]} is given more than once" in said


def test_diff_in_words_as_json_and_as_a_page(models: list[str], tmp_path: Path) -> None:
    said = cli("diff", *models, "--out", tmp_path / "diff")
    assert "aligned" in said and "layer 1" in said and (tmp_path / "diff" / "diff.html").is_file()
    found = json.loads(cli("diff", *models, "--json", "--no-spectrum"))
    assert found["models"] == ["first", "second"] and found["cosines"][0][1] == pytest.approx(1.0)


def test_extract_an_adapter_and_merge_it(models: list[str], tmp_path: Path) -> None:
    said = cli("extract-lora", models[1], models[0], "--rank", "2", "--embeddings", "-o", tmp_path / "lora")
    assert "adapter of 3 weights, rank 1" in said and "100.0% of the squared change" in said
    cli("merge", models[0], tmp_path / "lora", "-m", "average", "-o", tmp_path / "out")
    merged, tuned = (load_file(Path(f) / "model.safetensors") for f in (tmp_path / "out", models[1]))
    for name, tensor in tuned.items():
        assert torch.allclose(merged[name], tensor, atol=1e-5), name


def test_layers_of_two_models_stacked(models: list[str], tmp_path: Path) -> None:
    """mergekit's passthrough, as most of its users use it."""
    recipe = tmp_path / "stack.yml"
    recipe.write_text(
        "merge_method: passthrough\nslices:\n- sources: [{model: first, layer_range: [0, 2]}]\n"
        "- sources: [{model: second, layer_range: [1, 2]}]\n"
    )
    cli("merge", recipe, "-o", tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert [merged[f"model.layers.{n}.q_proj.weight"][0, 0].item() for n in range(3)] == [2.0, 4.0, 8.0]
    assert "allround merge" not in (tmp_path / "out" / "README.md").read_text(), "no command line says this"


def test_what_a_user_put_beside_a_model_is_not_thrown_away(models: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli("merge", *models, "-m", "average", "-o", out)
    cli("merge", *models, "-m", "average", "-o", out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(AllroundError, match=r"was not written with it: notes\.txt"):
        cli("merge", *models, "-m", "average", "-o", out)
    assert (out / "notes.txt").read_text() == "mine"


def test_values_that_mean_nothing(models: list[str], tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", tmp_path / "recipe.yml"
    with pytest.raises(AllroundError, match="the weights add up to zero"):
        cli("merge", *models, "-m", "average", "--weights", "1,-1", "-o", out)
    for scale, words in ((f"1{'0' * 400}", "line 4, column 21: a whole number that is too long"),
                         (f"1{'0' * 302}", "not a finite number"), (".inf", "not a finite number")):  # fmt: skip
        recipe.write_text(f"base: base\nmodels: [first]\nmethod: ties\nparameters: {{scale: {scale}}}\n")
        with pytest.raises(AllroundError, match=words):
            cli("merge", recipe, "-o", out)
    recipe.write_text("base: base\nmodels: [first]\nmethod: ties\nrules: [{match: '*nothing*', scale: 2.0}]\n")
    with pytest.raises(AllroundError, match="no tensor has such a name"):
        cli("merge", recipe, "-o", out)
    recipe.write_text("base: base\nmodels: [first]\nmethod: ties\nchat_template: '{% if %}'\n")
    with pytest.raises(AllroundError, match="not a valid Jinja template"):
        cli("merge", recipe, "-o", out)
    assert not out.exists()


def test_the_command_in_the_card_survives_odd_paths(models: list[str], tmp_path: Path) -> None:
    odd = tmp_path / "my models $x"
    odd.mkdir()
    for number, path in enumerate(models):
        Path(path).rename(odd / str(number))
    cli("merge", *[odd / str(n) for n in range(3)], "-m", "average", "-o", tmp_path / "out")
    line = next(x for x in (tmp_path / "out" / "README.md").read_text().splitlines() if x.startswith("allround merge"))
    assert shlex.split(line)[2:5] == [str(odd / str(n)) for n in range(3)]


def test_whole_numbers_that_differ_are_said_on_the_screen(models: list[str], tmp_path: Path) -> None:
    for number, path in enumerate(models):
        tensors = load_file(Path(path) / "model.safetensors")
        save_file({**tensors, "ids": torch.tensor([number])}, Path(path) / "model.safetensors")
    said = cli("merge", *models, "-m", "average", "-o", tmp_path / "out")
    assert "note: ids is not floating point" in said
