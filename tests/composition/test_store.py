"""Stores: what goes in comes out, whatever the encoder, dtype or order; and what is damaged is refused in words."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import allround
from allround.checkpoints.weights import Weights
from allround.cli.app import app
from allround.composition.residuals.residual import Residual
from allround.composition.residuals.store import Store, find_places
from allround.composition.residuals.write import StoreMember, open_specialist, write_store
from allround.composition.systems.residual_store import ResidualStore
from allround.core.errors import AllroundError
from allround.models.base import load_encoder
from allround.models.batch import Answers
from allround.models.encoder import Encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.system import System, load
from allround.models.systems.multi_task_model import MultiTaskModel, open_model
from allround.tasks.suite import Suite

WHOLE: dict[str, dict[str, Any]] = {
    "sparse": {"keep": 1.0, "values": "own"},
    "low_rank": {"share": 1.0, "values": "own"},
}


def cli(*words: Any) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def shake(encoder: Encoder, seed: int, size: float = 0.05) -> None:
    """Change every floating weight, by random numbers."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in encoder.state_dict().values():
        if tensor.is_floating_point():
            tensor += size * tensor.std(correction=0).clamp_min(0.1) * torch.randn(tensor.shape, generator=draw)


def save_specialists(base: Path, suite: Suite, names: list[str], folder: Path) -> dict[str, Path]:
    """A specialist for each task: the base with changed weights, and a head."""
    found = {}
    for number, name in enumerate(names):
        model = MultiTaskModel(load_encoder(base), {name: suite.tasks[name].definition})
        shake(model.encoder, number)
        with torch.random.fork_rng():
            torch.manual_seed(number)
            torch.nn.init.normal_(model.heads[name].weight)
        found[name] = folder / name
        model.save(found[name])
    return found


@pytest.fixture(scope="module")
def digits(small_image: SmallImage, digits_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base and three specialists of small images."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "base").mkdir()
    small_image.save(folder / "base")
    return {
        "base": folder / "base",
        **save_specialists(folder / "base", digits_suite, list(digits_suite.tasks), folder),
    }


@pytest.fixture(scope="module")
def words(bert_folder: Path, text_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same of texts: a folder of sentence-transformers as the base."""
    folder = tmp_path_factory.mktemp("words")
    return {"base": bert_folder, **save_specialists(bert_folder, text_suite, ["mood", "warmth", "names"], folder)}


def specialists(models: Mapping[str, Path]) -> list[StoreMember]:
    return [open_specialist(path) for name, path in models.items() if name != "base"]


@pytest.fixture
def store(digits: dict[str, Path], tmp_path: Path) -> Path:
    """Three specialists whole, against the base."""
    write_store(tmp_path / "store", digits["base"], specialists(digits), codec="sparse", values=WHOLE["sparse"])
    return tmp_path / "store"


def outputs(system: System, suite: Suite, task: str) -> Tensor:
    model = system.open(task) if isinstance(system, ResidualStore) else system
    assert isinstance(model, MultiTaskModel)
    return model.outputs(task, suite.tasks[task].splits["test"].inputs).logits


@pytest.mark.slow
@pytest.mark.parametrize("codec", sorted(WHOLE))
@pytest.mark.parametrize("modality", ["digits", "words"])
def test_whole_residuals_give_the_specialists(
    codec: str, modality: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    models, suite = (
        request.getfixturevalue(modality),
        request.getfixturevalue({"digits": "digits_suite", "words": "text_suite"}[modality]),
    )
    write_store(tmp_path / "store", models["base"], specialists(models), codec=codec, values=WHOLE[codec])
    opened = load(tmp_path / "store")
    assert isinstance(opened, ResidualStore) and opened._places is not None
    tasks = [name for name in models if name != "base"]
    for name in [*tasks, *reversed(tasks)]:  # whatever was open before
        expected = outputs(load(models[name]), suite, name)
        torch.testing.assert_close(outputs(opened, suite, name), expected, atol=1e-4, rtol=1e-4)


def test_a_task_does_not_depend_on_what_was_open_before(
    digits: dict[str, Path], digits_suite: Suite, tmp_path: Path
) -> None:
    write_store(tmp_path / "store", digits["base"], specialists(digits), codec="sign")
    fresh = {name: outputs(load(tmp_path / "store"), digits_suite, name) for name in digits_suite.tasks}
    opened = load(tmp_path / "store")
    for name in ("digit", "ink", "digit", "segments", "ink", "digit"):
        assert outputs(opened, digits_suite, name).equal(fresh[name]), "to the bit"


@pytest.mark.parametrize("places", ["known", "unknown"])
def test_threads_get_the_answers_of_their_own_task(
    places: str, digits_suite: Suite, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way they ask, and where weights go by way of a folder."""
    if places == "unknown":
        monkeypatch.setattr("allround.composition.systems.residual_store.find_places", lambda encoder, store: None)
    opened = load(store)
    assert isinstance(opened, ResidualStore)
    rows = {name: task.splits["test"].inputs[:8] for name, task in digits_suite.tasks.items()}
    expected = {name: opened.open(name).answers(name, given).predictions for name, given in rows.items()}
    readable = {name: opened.predict(name, given) for name, given in rows.items()}

    def ask(number: int) -> bool:
        name = list(rows)[number * 7 % 11 % len(rows)]
        if number % 3 == 0:
            return opened.predict(name, rows[name]) == readable[name]
        if number % 3 == 1:
            return np.array_equal(opened.answers(name, rows[name]).predictions, expected[name])
        mixed = opened.answer_mixed([name] * 8, rows[name])
        return np.array_equal(Answers.join(mixed).predictions, expected[name])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(160 if places == "known" else 24)))


def test_a_text_model_answers_threads(words: dict[str, Path], text_suite: Suite) -> None:
    inputs = [row for (row,) in text_suite.tasks["mood"].splits["train"].inputs]
    expected = [load(words["mood"]).predict("mood", inputs[n : n + 3]) for n in range(12)]
    model = copy.deepcopy(load(words["mood"]))  # fresh: how texts are cut is not set yet
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: model.predict("mood", inputs[n % 12 : n % 12 + 3]), range(48))) == expected * 4


def test_an_encoder_that_holds_its_weights_otherwise_is_loaded_by_way_of_a_folder(
    digits: dict[str, Path], digits_suite: Suite, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = {name: outputs(load(store), digits_suite, name) for name in digits_suite.tasks}
    monkeypatch.setattr("allround.composition.systems.residual_store.find_places", lambda encoder, store: None)
    opened = load(store)
    for name in digits_suite.tasks:
        assert outputs(opened, digits_suite, name).equal(direct[name])


def test_places_are_believed_only_with_the_values_of_the_files(store: Path) -> None:
    opened, encoder = Store.open(store), load_encoder(store / "encoder")
    places = find_places(encoder, opened)
    assert places is not None and set(places) == set(opened.weights)
    next(encoder.parameters()).data.mul_(2)
    assert find_places(encoder, opened) is None
    assert find_places(load_encoder(store / "encoder").half(), opened) is None


@pytest.mark.parametrize("codec", ["mask", "low_rank", "sparse", "sign"])
def test_every_codec_from_the_command_line(
    codec: str, digits: dict[str, Path], digits_suite: Suite, tmp_path: Path
) -> None:
    base, *models = digits.values()
    options = ("--threshold", "1") if codec == "mask" else ()  # from there on no weight comes out further off
    said = cli("compress", base, *models, "--codec", codec, *options, "-o", tmp_path / "store")
    for words in ("residual digit", "the store", "all specialists", "100.0%"):
        assert words in said
    sizes = Store.open(tmp_path / "store").sizes
    on_disk = sum(p.stat().st_size for p in (tmp_path / "store").rglob("*.safetensors"))
    full = sum(p.stat().st_size for model in models for p in model.rglob("*.safetensors"))
    assert sizes.total == on_disk and 0.95 * full < sizes.specialists <= full
    assert f"{sizes.total:,} bytes" in said and (sizes.vector > 0) == (codec == "mask")
    assert isinstance(allround.load(tmp_path / "store"), ResidualStore)
    start = load_file(tmp_path / "store" / "encoder" / "model.safetensors")
    for name in digits_suite.tasks:
        cli("materialise", tmp_path / "store", name, "-o", tmp_path / name)
        made, own = (load_file(folder / "encoder" / "model.safetensors") for folder in (tmp_path / name, digits[name]))
        for weight, tuned in own.items():
            assert (made[weight] - tuned).norm() < 0.98 * (start[weight] - tuned).norm(), (
                weight,
                "nearer than without",
            )


def test_masks_are_those_of_the_formula(digits: dict[str, Path], tmp_path: Path) -> None:
    base, *models = digits.values()
    cli("compress", base, *models, "-c", "mask", "--threshold", "0.5", "--values", "own", "-o", tmp_path / "store")
    cli("materialise", tmp_path / "store", "ink", "-o", tmp_path / "ink")
    start, made = load_file(base / "model.safetensors"), load_file(tmp_path / "ink" / "encoder" / "model.safetensors")
    tuned = [load_file(model / "encoder" / "model.safetensors") for model in models]
    for name, weight in start.items():
        total = sum(model[name] - weight for model in tuned)
        own = load_file(digits["ink"] / "encoder" / "model.safetensors")[name] - weight
        mask = own.abs() >= 0.5 * (total - own).abs()
        close = torch.isclose(made[name], weight + mask * total, atol=1e-6)
        assert close.float().mean() > 0.999, "but for ties in the last bit"
    residual = load_file(tmp_path / "store" / "residuals" / "ink.safetensors")
    assert {n: p.numel() for n, p in residual.items()} == {f"{n}.bits": -(-w.numel() // 8) for n, w in start.items()}


def test_a_materialised_task_is_a_model_like_any_other(
    words: dict[str, Path], text_suite: Suite, tmp_path: Path
) -> None:
    base, *models = words.values()
    cli("compress", base, *models, "-c", "low_rank", "--rank", "4", "--merge-normalize", "true", "-m",
        "task_arithmetic", "--merge-scale=1", "-o", tmp_path / "store")  # fmt: skip
    assert json.loads((tmp_path / "store" / "allround.json").read_text())["made_by"]["merged"].startswith("task_ari")
    cli("materialise", tmp_path / "store", "names", "-o", tmp_path / "names")
    made = load(tmp_path / "names")
    assert type(made) is MultiTaskModel and list(made.definitions) == ["names"]
    torch.testing.assert_close(
        outputs(made, text_suite, "names"), outputs(load(tmp_path / "store"), text_suite, "names")
    )
    encoder = load_encoder(tmp_path / "store" / "encoder")  # what is stored once is a model folder as well
    assert encoder.name == "text"
    opened = load(tmp_path / "store")
    opened.save(tmp_path / "saved")  # a store that is saved is a store again, and its tasks can be taken from it
    again = load(tmp_path / "saved")
    assert isinstance(again, ResidualStore) and again.definitions == opened.definitions
    for name in again.definitions:
        assert outputs(again, text_suite, name).equal(outputs(opened, text_suite, name)), "to the bit"
    cli("materialise", tmp_path / "saved", "names", "-o", tmp_path / "names of saved")
    assert outputs(load(tmp_path / "names of saved"), text_suite, "names").equal(outputs(made, text_suite, "names"))
    facts = [json.loads((tmp_path / name / "allround.json").read_text()) for name in ("store", "saved")]
    assert facts[0] == facts[1]
    assert (again.cost(), again.parameters_stored) == (opened.cost(), opened.parameters_stored)


@pytest.mark.slow
def test_predict_and_evaluate_open_a_store(
    words: dict[str, Path], tmp_path: Path, digits: dict[str, Path], store: Path
) -> None:
    base, *models = words.values()
    cli("compress", base, *models, "-c", "sparse", "--keep=1", "--values", "own", "-m", "none", "-o", tmp_path / "text")
    for task, text in (("mood", "the cat is warm"), ("warmth", "fine kind dull"), ("names", "ada was at the valley")):
        answers = [json.loads(cli("predict", folder, "--task", task, "--json", text))["prediction"]
                   for folder in (tmp_path / "text", words[task])]  # fmt: skip
        assert answers[0] == pytest.approx(answers[1]) if task == "warmth" else answers[0] == answers[1]
    limits = [word for part in ("train=60", "validation=30", "test=30") for word in ("--limit", part)]
    for task in ("digit", "ink"):
        boards = [json.loads(cli("evaluate", folder, "digits", "--only", task, *limits, "--json"))
                  for folder in (store, digits[task])]  # fmt: skip
        scores = [board["cells"]["model"][task]["score"] for board in boards]
        assert scores[0] == pytest.approx(scores[1])
    cost = next(s for s in boards[0]["systems"] if s["name"] == "model")["cost"]
    assert cost["parameters_stored"] == -(-Store.open(store).sizes.total // 4)


def test_thresholds_are_chosen_on_validation(digits: dict[str, Path], digits_suite: Suite, tmp_path: Path) -> None:
    asked: list[tuple[str, float]] = []

    def judge(model: ResidualStore, task: str) -> float:
        assert list(model.open(task).definitions) == list(model.definitions)
        threshold = Residual(model.store.path(task)).values["threshold"]
        asked.append((task, threshold))
        return {"digit": -threshold, "ink": threshold, "segments": 0.0}[task]

    merged = Weights(digits["digit"] / "encoder")
    made = write_store(tmp_path / "s", digits["base"], specialists(digits), codec="mask", merged=merged, judge=judge)
    chosen = {name: Residual(made.path(name)).values["threshold"] for name in digits_suite.tasks}
    assert chosen == {"digit": 0.2, "ink": 0.6, "segments": 0.2}, "the first of equals"
    assert len(asked) == 15 and made.made["chosen"]["ink"] == {"threshold": 0.6}
    asked.clear()
    write_store(tmp_path / "s", digits["base"], specialists(digits), codec="mask", merged=merged, judge=judge,
                values={"threshold": 0.3})  # fmt: skip
    assert not asked, "what is given is not chosen"


def test_a_suite_chooses_thresholds(tmp_path: Path, words: dict[str, Path]) -> None:
    rows = [{"text": f"the cat is {word} {n}", "label": mood} for n in range(8) for word, mood in
            (("fine", "good"), ("dull", "bad"), ("warm", "good"), ("cold", "bad"))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "suite.yml").write_text(
        "tasks:\n  mood: {source: rows.jsonl, inputs: text, target: label, kind: classification}\n"
    )
    said = cli("compress", words["base"], words["mood"], "-c", "mask", "--suite", tmp_path / "suite.yml",
               "-o", tmp_path / "store")  # fmt: skip
    assert "residual mood threshold=0." in said
    with pytest.raises(AllroundError, match="has no such task"):
        cli("compress", words["base"], words["mood"], words["warmth"], "-c", "mask", "--suite", tmp_path / "suite.yml",
            "-o", tmp_path / "other")  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_stored_in_half_gives_specialists_in_full(
    dtype: str, digits: dict[str, Path], digits_suite: Suite, tmp_path: Path
) -> None:
    base, *models = digits.values()
    cli("compress", base, *models, "-c", "sparse", "--keep", "1", "--values", "own", "--dtype", dtype, "-o",
        tmp_path / "store")  # fmt: skip
    stored = load_file(tmp_path / "store" / "encoder" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {getattr(torch, dtype)}
    opened = load(tmp_path / "store")
    assert isinstance(opened, ResidualStore)
    for name in digits_suite.tasks:
        expected = outputs(load(digits[name]), digits_suite, name)
        torch.testing.assert_close(outputs(opened, digits_suite, name), expected, atol=1e-4, rtol=1e-4)
    cli("materialise", tmp_path / "store", "ink", "-o", tmp_path / "ink")
    made = load_file(tmp_path / "ink" / "encoder" / "model.safetensors")
    for name, tensor in load_file(digits["ink"] / "encoder" / "model.safetensors").items():
        torch.testing.assert_close(made[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., Path]:
    """Writes folders that allround did not save: weights in two files, and a configuration."""

    def make(name: str, change: float, dtype: torch.dtype = torch.float32, **more: Tensor) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        first = {"a.weight": torch.linspace(-1, 1, 48).view(6, 8) + change, "count": torch.tensor([3])}
        second = {"b.weight": torch.linspace(0, 2, 30).view(5, 6) - change, "mask": torch.tensor([0.0, -torch.inf])}
        for number, tensors in enumerate((first, {**second, **more}), 1):
            cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
            save_file(cast, folder / f"model-0000{number}-of-00002.safetensors", {"format": "pt"})
        listed = {
            n: f"model-0000{k}-of-00002.safetensors" for k, p in enumerate((first, {**second, **more}), 1) for n in p
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
        (folder / "config.json").write_text("{}")
        return folder

    return make


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_folders_without_heads(plain: Callable[..., Path], tmp_path: Path, dtype: torch.dtype) -> None:
    base, first, second = plain("base", 0.0, dtype), plain("first", 0.5, dtype), plain("second", 0.0, dtype)
    cli("compress", base, first, second, "-c", "sign", "-m", "none", "-o", tmp_path / "store")
    assert not load_file(tmp_path / "store" / "residuals" / "second.safetensors"), "no change takes no bytes"
    cli("materialise", tmp_path / "store", "first", "-o", tmp_path / "out")
    made, tuned = Weights(tmp_path / "out"), Weights(first)
    assert (
        made.file_of("b.weight")[0].name == "model-00002-of-00002.safetensors"
        and (tmp_path / "out/config.json").is_file()
    )
    for name in tuned:
        assert made.dtype(name) == tuned.dtype(name)
        torch.testing.assert_close(made.get(name), tuned.get(name), atol=2e-2, rtol=0)
    cli("materialise", tmp_path / "store", "second", "-o", tmp_path / "same")
    assert all(torch.equal(Weights(tmp_path / "same").get(n), Weights(base).get(n)) for n in tuned)


def test_models_that_do_not_fit(plain: Callable[..., Path], tmp_path: Path) -> None:
    base, good, more = plain("base", 0.0), plain("good", 0.1), plain("more", 0.1, head=torch.ones(3))
    nan = plain("nan", float("nan"))
    wider = plain("wider", 0.1)
    tensors = load_file(wider / "model-00001-of-00002.safetensors")
    save_file({**tensors, "a.weight": torch.ones(6, 9)}, wider / "model-00001-of-00002.safetensors")
    out = tmp_path / "store"
    for words, match in (
        ((base, good, more, "-c", "sign", "-m", "none"), "has beside those of the model 1 tensor, such as head"),
        ((more, good, "-c", "sign", "-m", "none"), "lacks 1 tensor, such as head"),
        ((base, wider, "-c", "sign", "-m", "none"), r"'a.weight' is \(6, 9\)"),
        ((base, nan, "-c", "sign", "-m", "none"), "holds NaN or infinity"),
        ((base, good, good, "-c", "sign", "-m", "none"), "'good' is in two of them"),
        ((base, good, "-c", "sing"), "did you mean 'sign'"),
        ((base, good, "-c", "sign", "--rnak", "3"), "it has no parameter 'rnak'"),
        ((base, good, "-c", "mask", "-m", "none"), "the codec masks one"),
        ((base, good, "-c", "sign", "-m", "avrage"), "did you mean 'average'"),
        ((base, good, "-c", "sign", "--shared", base, "-m", "ties"), "leave --shared out"),
        ((base, good, "-c", "sign", "--dtype", "fp8"), "no such dtype"),
        ((base, "-c", "sign"), "give the base and the models"),
    ):
        with pytest.raises(AllroundError, match=match):
            cli("compress", *words, "-o", out)
        assert not out.exists() and not list(tmp_path.glob(".store*")), words
    with pytest.raises(AllroundError, match="one must not lie within the other"):
        write_store(good / "store", base, [open_specialist(good)], codec="sign")
    with pytest.raises(AllroundError, match="the codec masks a merged model"):
        write_store(out, base, [open_specialist(good)], codec="mask")


def test_a_shared_model_of_ones_own(plain: Callable[..., Path], tmp_path: Path) -> None:
    base, first, shared = plain("base", 0.0), plain("first", 0.5), plain("shared", 0.25)
    cli("compress", base, first, "-c", "sign", "--shared", shared, "-o", tmp_path / "store")
    assert Weights(tmp_path / "store" / "encoder").get("a.weight").equal(Weights(shared).get("a.weight"))
    cli("materialise", tmp_path / "store", "first", "-o", tmp_path / "out")
    torch.testing.assert_close(Weights(tmp_path / "out").get("a.weight"), Weights(first).get("a.weight"))


def test_wrong_tasks_and_folders(store: Path, digits: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AllroundError, match="did you mean 'digit'"):
        cli("materialise", store, "digt", "-o", tmp_path / "out")
    with pytest.raises(AllroundError, match="did you mean 'digit'"):
        cli("predict", store, "--task", "digt", "x.png")
    with pytest.raises(AllroundError, match="without residuals"):
        Store.open(digits["ink"])
    with pytest.raises(AllroundError, match="one must not lie within the other"):
        cli("materialise", store, "ink", "-o", store / "ink")
    base, *models = digits.values()
    cli("compress", base, *models, "-c", "sign", "-o", store)  # a store may be made anew in its place
    assert Store.open(store).made["codec"] == "sign"


@pytest.mark.parametrize(
    "command",
    [
        "stats STORE digits --kind gram -o OUT.safetensors",
        "merge BASE STORE INK -o OUT",
        "merge STORE INK INK -o OUT",
        "diff BASE STORE",
        "extract-lora STORE BASE -o OUT",
        "compress BASE STORE -c sparse -o OUT",
        "tune digits ink --base STORE -o OUT",
        "build digits --base BASE --specialist ink=STORE --only ink -o OUT",
        "align STORE INK --by weights -o OUT",
    ],
)
def test_the_model_that_a_store_holds_once_is_taken_for_no_task(
    command: str, store: Path, digits: dict[str, Path], tmp_path: Path
) -> None:
    given = {"STORE": store, "BASE": digits["base"], "INK": digits["ink"], "OUT": tmp_path / "out"}
    words = [next((word.replace(k, str(v)) for k, v in given.items() if word.endswith(k) or word.startswith(f"{k}.")),
                  word) for word in command.split()]  # fmt: skip
    with pytest.raises(AllroundError, match="a store of residuals") as error:
        cli(*words)
    assert f"allround materialise {store} TASK" in error.value.do
    assert not (tmp_path / "out" / "best").exists() and not (tmp_path / "out.safetensors").exists()


def test_a_damaged_store_is_refused_in_words(store: Path, tmp_path: Path) -> None:
    def damaged(change: Callable[[Path], None], match: str) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(store, copy)
        change(copy)
        with pytest.raises(AllroundError, match=match):
            opened = load(copy)
            assert isinstance(opened, ResidualStore)
            opened.open("ink")
        shutil.rmtree(copy)

    def about(**changed: Any) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            value = json.loads((folder / "allround.json").read_text())
            value["residuals"].update(changed)
            (folder / "allround.json").write_text(json.dumps(value))

        return change

    def residual(edit: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            path = folder / "residuals" / "ink.safetensors"
            tensors, metadata = load_file(path), dict(Weights(path).metadata)
            edit(tensors, metadata)
            save_file(tensors, path, metadata)

        return change

    one = next(n for n in load_file(store / "residuals" / "ink.safetensors") if n.endswith(".values"))
    ink = "residuals/ink.safetensors"
    damaged(lambda f: os.truncate(f / ink, 2000), "broken or cut short")
    damaged(lambda f: (f / ink).unlink(), "is not there")
    damaged(about(files={"digit": "digit", "ink": "../../evil", "segments": "segments"}), "not safe")
    damaged(about(files={"digit": "digit"}), "does not list the residuals")
    damaged(about(files=7), "it is damaged")
    damaged(about(dtype="F7"), "not one of F64")
    damaged(about(specialists="many"), "specialists: Input should be a valid integer")
    damaged(about(specialists=0), "bytes of the specialists")
    damaged(residual(lambda t, m: m.update(codec="zip")), "'zip' is not one of")
    damaged(residual(lambda t, m: m.update(parameters="[1")), "does not say how to read it")
    damaged(residual(lambda t, m: m.update(parameters="[1]")), "does not say how to read it")
    damaged(residual(lambda t, m: m.update(parameters='{"keep": 7}')), "does not say how to read it")
    damaged(residual(lambda t, m: m.clear()), "does not say how to read it")
    damaged(residual(lambda t, m: t.update({one: torch.ones(3)})), "it is damaged")
    damaged(residual(lambda t, m: t.update({"other.values": torch.ones(3)})), "no weight of the model")
    damaged(lambda f: save_file({"other": torch.ones(3)}, f / "vector.safetensors"), "no weight of the model")


def test_residuals_may_come_on_the_model_of_two_tasks(
    digits: dict[str, Path], digits_suite: Suite, tmp_path: Path
) -> None:
    joint, other = open_model(digits["digit"]), open_model(digits["ink"])
    joint.add_task(other.definitions["ink"], other.head("ink").stored())
    joint.save(tmp_path / "joint")
    write_store(tmp_path / "store", digits["base"], [open_specialist(tmp_path / "joint")], codec="sparse",
                values=WHOLE["sparse"])  # fmt: skip
    opened = Store.open(tmp_path / "store")
    assert opened.files == {"digit": "digit", "ink": "digit"} and list(opened.sizes.residuals) == ["digit"]
    opened.materialise("ink", tmp_path / "out")
    assert list(load(tmp_path / "out").definitions) == ["digit", "ink"]


def test_few_tensors_are_held_at_a_time(digits: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    held: list[str] = []
    get = Weights.get

    def watched(self: Weights, name: str) -> Tensor:
        held.append(name)
        return get(self, name)

    monkeypatch.setattr(Weights, "get", watched)
    write_store(tmp_path / "store", digits["base"], specialists(digits), codec="low_rank")
    names = [name for name in held if name in Weights(digits["base"])]
    steps = [name for name, after in zip(names, [*names[1:], ""], strict=True) if name != after]
    assert len(steps) == 4 * len(Weights(digits["base"])), "each weight once for the model and once for each specialist"
