"""Statistics as files: their names, their facts, and merges that take them."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from allround.checkpoints.weights import Weights
from allround.cli.stats import stats
from allround.core.errors import AllroundError
from allround.merging.layout import make_plan
from allround.merging.matrices import shrunk
from allround.merging.methods.average import average
from allround.merging.methods.fisher import fisher
from allround.merging.methods.mats import mats
from allround.merging.methods.regmean import regmean
from allround.merging.recipe import Model, Recipe, Rule
from allround.merging.save import merge_models
from allround.merging.statistics.collect import collect
from allround.merging.statistics.file import fingerprint
from allround.models.base import load_encoder
from allround.models.likelihood import likelihood
from allround.models.names import common_suffix, file_names
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.kind import kind
from allround.tasks.suite import Suite

TASKS = ("mood", "names", "warmth", "topics")


@pytest.fixture(scope="module")
def folders(bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base, and a specialist for each task: some noise on the base, and a random head."""
    root = tmp_path_factory.mktemp("specialists")
    encoder = load_encoder(bert_folder)
    encoder_folder = root / "base"
    encoder_folder.mkdir()
    encoder.save(encoder_folder)
    found = {"base": encoder_folder}
    for number, name in enumerate(TASKS):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = MultiTaskModel(copy.deepcopy(encoder), {})
            task = text_suite.tasks[name].definition
            outputs = likelihood(task).outputs(task)
            model.add_task(task, {"weight": torch.randn(outputs, 32), "bias": torch.zeros(outputs)})
            with torch.no_grad():
                for parameter in model.encoder.parameters():
                    parameter += 0.02 * torch.randn_like(parameter)
        model.save(root / name)
        found[name] = root / name
    return found


@pytest.fixture(scope="module")
def files(folders: dict[str, Path], text_suite: Suite) -> dict[str, tuple[str, ...]]:
    """Kind -> a file for each task's specialist."""
    found = {}
    for kind_ in ("gram", "fisher", "kfac"):
        paths = [folders["base"].parent / f"{name}.{kind_}.safetensors" for name in TASKS]
        for name, path in zip(TASKS, paths, strict=True):
            collect(folders[name], [text_suite.tasks[name]], kind_, path, rows=8)
        found[kind_] = tuple(map(str, paths))
    return found


def recipe(folders: dict[str, Path], method: str, **about: object) -> Recipe:
    models = tuple(Model(str(folders[name])) for name in TASKS)
    return Recipe(method, models, Model(str(folders["base"])), **about)  # type: ignore[arg-type]


def test_a_file_names_weights_as_the_model_does_and_says_what_made_it(
    folders: dict[str, Path], files: dict[str, tuple[str, ...]], text_suite: Suite
) -> None:
    weights = Weights(folders["mood"] / "encoder")
    gram, fishers, factors = (Weights(files[k][0]) for k in ("gram", "fisher", "kfac"))
    assert set(gram) <= set(weights) and "encoder.layer.1.output.dense.weight" in gram
    assert gram.shape("encoder.layer.1.output.dense.weight") == (64, 64)
    assert gram.shape("embeddings.word_embeddings.weight") == weights.shape("embeddings.word_embeddings.weight")[:1]
    assert {n: fishers.shape(n) for n in fishers} == {n: weights.shape(n) for n in weights}
    assert factors.shape("encoder.layer.1.output.dense.weight.output") == (32, 32)
    about = factors.metadata
    assert (about["statistic"], about["labels"], about["split"], about["rows"]) == ("kfac", "given", "train", "8")
    assert json.loads(about["tasks"]) == {"mood": text_suite.tasks["mood"].content}
    assert about["fingerprint"] == fingerprint(weights) and about["model"] == str(folders["mood"])
    assert "labels" not in gram.metadata


@pytest.mark.parametrize("kind_", ["gram", "fisher", "kfac", "activations"])
def test_the_same_bytes_come_again(
    kind_: str, folders: dict[str, Path], files: dict[str, tuple[str, ...]], text_suite: Suite, tmp_path: Path
) -> None:
    task = text_suite.tasks["topics"]
    for name in "ab":
        collect(folders["topics"], [task], kind_, tmp_path / name, rows=8, labels="own")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    collect(folders["topics"], [task], kind_, tmp_path / "c", rows=8, labels="own", seed=1)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_an_encoder_alone_is_enough_without_gradients(
    folders: dict[str, Path], text_suite: Suite, tmp_path: Path
) -> None:
    made = collect(folders["base"], list(text_suite.tasks.values()), "gram", tmp_path / "f", rows=4)
    assert made.rows == 20 and made.tensors > 12 and made.left_out == ()
    with pytest.raises(AllroundError, match="no head for 'mood'"):
        collect(folders["base"], [text_suite.tasks["mood"]], "fisher", tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_targets_are_those_of_the_models_own_head(folders: dict[str, Path], text_suite: Suite, tmp_path: Path) -> None:
    """The same rows under another order of labels, or another scale, give the same gradients."""
    for name, change in (("mood", {"labels": ("good", "bad")}), ("warmth", {"center": 1.0, "scale": 3.0})):
        task = text_suite.tasks[name]
        rules, other = kind(task.definition.kind), replace(task.definition, **change)
        splits = {
            key: replace(split, targets=rules.encode(rules.decode(split.targets, task.definition), other))
            for key, split in task.splits.items()
        }
        moved = replace(task, definition=other, splits=splits)
        for given, path in ((task, "a"), (moved, "b")):
            collect(folders[name], [given], "kfac", tmp_path / path, rows=6)
        one, two = load_file(tmp_path / "a"), load_file(tmp_path / "b")
        assert all(torch.allclose(one[key], two[key], rtol=1e-4) for key in one)
    odd = replace(task, definition=replace(text_suite.tasks["mood"].definition, labels=("fine", "bad")),
                  splits=text_suite.tasks["mood"].splits)  # fmt: skip
    with pytest.raises(AllroundError, match="does not know the label 'fine'"):
        collect(folders["mood"], [odd], "fisher", tmp_path / "c", rows=6)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rows": 0}, "0 rows are asked for"),
        ({"split": "trian"}, "did you mean 'train'"),
        ({"labels": "gven"}, "did you mean 'given'"),
        ({"device": "toaster"}, "use the device 'toaster'"),
    ],
)
def test_wrong_words(values: dict, match: str, folders: dict[str, Path], text_suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match=match):
        collect(folders["mood"], [text_suite.tasks["mood"]], "gram", tmp_path / "f", **values)


def test_merges_take_what_the_files_say(
    folders: dict[str, Path], files: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    """Through the engine as by hand, and with heads."""
    name = "encoder.layer.0.intermediate.dense.weight"
    base, *tuned = (Weights(p / "encoder" if p.name != "base" else p).get(name)
                    for p in (folders["base"], *(folders[t] for t in TASKS)))  # fmt: skip
    deltas = torch.stack(tuned) - base
    grams, fishers = (torch.stack([load_file(f)[name] for f in files[k]]) for k in ("gram", "fisher"))
    factors = tuple(torch.stack([load_file(f)[f"{name}.{p}"] for f in files["kfac"]]) for p in ("input", "output"))
    # Not by norms over the whole model: here one weight of it is merged by hand.
    by_fisher, by_kfac = ({"subspace": subspace, "normalize": False} for subspace in ("fisher", "kfac"))
    for number, (method, values, kind_, expected) in enumerate(
        (
            ("regmean", {"shrink": 0.5}, "gram", regmean(base, deltas, gram=grams, shrink=0.5)),
            ("mats", {"subspace": "gram"}, "gram", mats(base, deltas, gram=grams)),
            ("mats", by_fisher, "fisher", mats(base, deltas, fisher=fishers, **by_fisher)),
            ("mats", by_kfac, "kfac", mats(base, deltas, kfac=factors, **by_kfac)),
        )
    ):
        out = tmp_path / str(number)
        made = merge_models(make_plan(recipe(folders, method, values=values, statistics={kind_: files[kind_]})), out)
        assert torch.allclose(Weights(out / "encoder").get(name), expected, atol=1e-6), method
        assert set(load(out).heads) == set(TASKS)
        if method == "mats":
            told = made["reports"][name]
            assert 0 < told["steps"] <= 100 and 0 <= told["residual"] < 0.2
            assert any(note.startswith("mats: steps") for note in made["notes"])
    plan = make_plan(recipe(folders, "fisher", statistics={"fisher": files["fisher"]}, scope="tensor"))
    merge_models(plan, tmp_path / "fisher")
    found = Weights(tmp_path / "fisher" / "encoder").get(name)
    assert torch.allclose(found, fisher(base, deltas, fisher=fishers), atol=1e-6)


def test_what_is_missing_is_named_with_the_command(folders: dict[str, Path], files: dict[str, tuple[str, ...]]) -> None:
    for method, values, wanted in (("regmean", {}, "gram"), ("mats", {"subspace": "kfac"}, "kfac")):
        with pytest.raises(AllroundError) as caught:
            make_plan(recipe(folders, method, values=values))
        command = f"allround stats {folders['mood']} SUITE --kind {wanted} -o mood.{wanted}.safetensors"
        assert command in caught.value.do and f"--statistics {wanted}=FILE,FILE" in caught.value.do
    make_plan(recipe(folders, "mats", values={"subspace": "identity"}))
    with pytest.raises(AllroundError, match="takes none of it"):
        make_plan(recipe(folders, "mats", values={"subspace": "identity"}, statistics={"gram": files["gram"]}))
    rules = (Rule("*.layer.0.*", {"subspace": "identity"}),)
    make_plan(recipe(folders, "mats", rules=rules, statistics={"gram": files["gram"]}))


def test_a_merge_refuses_statistics_of_another_kind_or_model(
    folders: dict[str, Path], files: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    with pytest.raises(AllroundError, match=r"kind 'kfac', and is given as 'gram'") as caught:
        make_plan(recipe(folders, "regmean", statistics={"gram": (*files["gram"][:3], files["kfac"][3])}))
    assert f"allround stats {folders['topics']} SUITE --kind gram" in caught.value.do
    turned = tuple(reversed(files["gram"]))
    with pytest.raises(AllroundError, match=f"made from {folders['topics']}.*given for {folders['mood']}") as caught:
        make_plan(recipe(folders, "regmean", statistics={"gram": turned}))
    assert caught.value.do == "give the files in the order of the models"
    tensors = load_file(files["gram"][0])
    save_file(tensors, tmp_path / "f.safetensors", Weights(files["gram"][0]).metadata | {"fingerprint": "other"})
    with pytest.raises(AllroundError, match="as it was then"):
        make_plan(
            recipe(folders, "regmean", statistics={"gram": (str(tmp_path / "f.safetensors"), *files["gram"][1:])})
        )
    save_file(tensors, tmp_path / "plain.safetensors")
    plain = (str(tmp_path / "plain.safetensors"), *files["gram"][1:])
    make_plan(recipe(folders, "regmean", statistics={"gram": plain}))


def test_statistics_are_refused_for_a_model_that_was_changed_in_any_place(
    folders: dict[str, Path], files: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    """Not only in the first elements of a weight: zeros in the last row of one."""
    shutil.copytree(folders["mood"], tmp_path / "mood")
    path = tmp_path / "mood" / "encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors["embeddings.word_embeddings.weight"][-1] = 0
    save_file(tensors, path, {"format": "pt"})
    changed = {**folders, "mood": tmp_path / "mood"}
    with pytest.raises(AllroundError, match="as it was then"):
        make_plan(recipe(changed, "regmean", statistics={"gram": files["gram"]}))


def test_a_weight_that_one_file_lacks_is_named(
    folders: dict[str, Path], files: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    tensors = load_file(files["gram"][1])
    del tensors["encoder.layer.0.intermediate.dense.weight"]
    save_file(tensors, tmp_path / "f.safetensors")
    given = (files["gram"][0], str(tmp_path / "f.safetensors"), *files["gram"][2:])
    with pytest.raises(AllroundError, match=r"intermediate.dense.weight") as caught:
        merge_models(make_plan(recipe(folders, "regmean", statistics={"gram": given})), tmp_path / "out")
    assert "allround stats" in caught.value.do and str(folders["names"]) in caught.value.do


def test_a_weight_stored_as_in_out_is_turned_for_the_method(tmp_path: Path) -> None:
    """As for GPT-2: the Gram matrix belongs to the first dimension, also where the weight is square."""
    base, rows = torch.randn(4, 4), torch.randn(2, 20, 4)
    deltas, grams = torch.randn(2, 4, 4), rows.mT @ rows
    for name, tensor in (("base", base), ("one", base + deltas[0]), ("two", base + deltas[1])):
        (tmp_path / name).mkdir()
        save_file({"w": tensor}, tmp_path / name / "model.safetensors")
    for name, gram in (("g1", grams[0]), ("g2", grams[1])):
        save_file({"w": gram}, tmp_path / f"{name}.safetensors", {"statistic": "gram", "transposed": '["w"]'})
    made = Recipe(
        "regmean", (Model(str(tmp_path / "one")), Model(str(tmp_path / "two"))), Model(str(tmp_path / "base")),
        statistics={"gram": (str(tmp_path / "g1.safetensors"), str(tmp_path / "g2.safetensors"))},
    )  # fmt: skip
    merge_models(make_plan(made), tmp_path / "out")
    expected = regmean(base.T, deltas.mT, gram=grams).T
    assert torch.allclose(load_file(tmp_path / "out" / "model.safetensors")["w"], expected, atol=1e-6)


def test_the_command(
    folders: dict[str, Path], text_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: dict = {}

    def loaded(suite: str, **values: object) -> Suite:
        asked.update(values)
        return Suite("words", [text_suite.tasks[name] for name in values["only"]])  # type: ignore[attr-defined]

    monkeypatch.setattr(Suite, "load", loaded)
    common: dict = {"data_dir": None, "only": None, "limit": None, "rows": 4, "split": "train", "labels": "own",
                    "seed": 0, "device": "cpu", "force": False}  # fmt: skip
    stats(str(folders["names"]), "words", "fisher", tmp_path / "f.safetensors", **common)
    assert asked["only"] == ["names"], "the tasks that it has heads for"
    said = capsys.readouterr().out
    assert "from 4 rows (train) of names" in said and "f.safetensors" in said
    for out, kind_, match in ((tmp_path, "gram", "it is a folder"), (tmp_path / "x.pt", "gram", "does not end in"),
                              (tmp_path / "x.safetensors", "gramm", "did you mean 'gram'")):  # fmt: skip
        with pytest.raises(AllroundError, match=match):
            stats(str(folders["names"]), "words", kind_, out, **common)


def saved(path: Path, **tensors: torch.Tensor) -> Weights:
    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)
    return Weights(path)


def test_names_are_found_by_shape_suffix_and_value(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.LayerNorm(3))
    state = network.state_dict()
    short = {f"x__{name.replace('.', '__')}": tensor.clone() for name, tensor in state.items()}
    found = file_names(network, saved(tmp_path / "a.safetensors", **short))
    assert found == {name: f"x.{name}" for name in state}, "norms are equal, and their numbers tell them apart"
    renamed = dict(short)
    renamed["x__1__gamma"] = renamed.pop("x__1__weight") + 1
    network[1].weight.data += 1
    assert file_names(network, saved(tmp_path / "b.safetensors", **renamed))["1.weight"] == "x.1.gamma"
    del renamed["x__1__gamma"]
    assert "1.weight" not in file_names(network, saved(tmp_path / "c.safetensors", **renamed))


def test_names_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    norm = nn.Sequential(nn.LayerNorm(3))
    ones = torch.ones(3)
    with pytest.raises(AllroundError, match=r"'0.weight' is equal to 'a' and to 'b'"):
        file_names(norm, saved(tmp_path / "a.safetensors", a=ones, b=ones.clone()))
    with pytest.raises(AllroundError, match="both equal to"):
        file_names(nn.Sequential(nn.LayerNorm(3), nn.LayerNorm(3)), saved(tmp_path / "b.safetensors", a=ones))
    with pytest.raises(AllroundError, match="equal to any parameter"):
        file_names(norm, saved(tmp_path / "c.safetensors", a=torch.full((3,), 2.0)))


def test_names_of_files_in_half_precision_and_in_folders(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 2, bias=False))
    (tmp_path / "2_Dense").mkdir()
    network.bfloat16().float()  # as it is after loading
    save_file({"linear.weight": network[0].weight.detach().bfloat16()}, tmp_path / "2_Dense" / "model.safetensors")
    assert file_names(network, Weights(tmp_path)) == {"0.weight": "2_Dense/linear.weight"}
    assert common_suffix("a.b.c", "x.b.c") == 2 and common_suffix("c", "a.c") == 1 and common_suffix("a", "b") == 0


def test_shrunk_leaves_the_diagonal() -> None:
    grams = torch.randn(2, 3, 3)
    found = shrunk(grams, 0.3, "regmean")
    assert torch.allclose(found.diagonal(dim1=1, dim2=2), grams.diagonal(dim1=1, dim2=2))
    assert torch.allclose(found[:, 0, 1], 0.3 * grams[:, 0, 1])


def test_embeddings_are_merged_by_counts() -> None:
    base, deltas = torch.randn(4, 3), torch.randn(2, 4, 3)
    counts = torch.tensor([[1.0, 3.0, 0.0, 0.0], [1.0, 1.0, 2.0, 0.0]])
    expected = base + torch.stack([
        deltas[:, 0].mean(0), (3 * deltas[0, 1] + deltas[1, 1]) / 4, deltas[1, 2], deltas[:, 3].mean(0)
    ])  # fmt: skip
    for method in (regmean, mats):
        assert torch.allclose(method(base, deltas, gram=counts, counts=True), expected, atol=1e-6)
        assert torch.allclose(method(base, deltas, gram=counts), average(base, deltas), atol=1e-6)
        with pytest.raises(AllroundError, match="counts are given"):
            method(base, deltas, gram=counts[:, :3], counts=True)
    full = torch.stack([row.diag() for row in counts])
    assert torch.allclose(regmean(base.T, deltas.mT, gram=full), expected.T, atol=1e-5), "the same by whole matrices"
