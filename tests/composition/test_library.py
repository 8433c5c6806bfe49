"""Libraries: what is added gives what PEFT gives, cards say what is in it, and nothing else is touched."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.composition.test_modules import KINDS, Backbone, adapter, bert, gpt2, outputs_of
from tests.models.language import save_model
from transformers import AutoModelForCausalLM, BertForSequenceClassification, BertModel
from typer.testing import CliRunner

import allround
from allround.cli.app import app
from allround.composition.library.card import TunedTask
from allround.composition.library.library import Library
from allround.composition.modules.bank import ModuleBank
from allround.core.errors import AllroundError
from allround.core.files import read_json, write_json
from allround.core.locks import LOCK, locked_folder
from allround.models.encoders.small_image import SmallImage
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft's, of transformers
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),  # peft's
]

IDS = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(1))


def cli(*words: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        if code and isinstance(result.exception, AllroundError):
            return f"{result.output}{result.exception}"
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def states(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files below a folder, with their bytes and times."""
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, adapters of each kind, a classifier's adapter, a tuned model, and a library of all of them."""
    folder = tmp_path_factory.mktemp("library")
    network = bert()
    network.save_pretrained(folder / "base")
    kinds = {**KINDS, "mixed": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "key", "dense"],
                                "rank_pattern": {"query": 2}, "alpha_pattern": {"key": 3}}}  # fmt: skip
    for seed, (name, settings) in enumerate(kinds.items()):
        adapter(network, folder / "given" / name, seed, **settings)
    classifier = BertForSequenceClassification(network.config)
    classifier.bert.load_state_dict(network.state_dict(), strict=False)
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["query"], "task_type": "SEQ_CLS"}
    adapter(classifier, folder / "given" / "classifier", 20, **settings)
    card = "---\nbase_model: someone/base\nlicense: mit\n---\n# A module\n"
    (folder / "given" / "plain" / "README.md").write_text(card)
    tuned = bert()
    torch.manual_seed(9)
    for layer in (tuned.encoder.layer[0].attention.self.query, tuned.encoder.layer[1].output.LayerNorm):
        for parameter in layer.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    tuned.save_pretrained(folder / "given" / "tuned")
    library = Library.create(folder / "lib", folder / "base")
    for place in sorted((folder / "given").iterdir()):
        library.add(place, tasks={"topic": TunedTask("accuracy", 0.8125, 300)} if place.name == "plain" else ())
    return folder


def whole_change(library: Library, name: str) -> dict[str, torch.Tensor]:
    """The change of a module, every tensor of it whole."""
    changes = library.changes(name)
    found = {tensor: changes.get(tensor) for tensor in changes}
    return {tensor: one.whole(library.weights.get(tensor)) for tensor, one in found.items() if one is not None}


def test_modules_give_what_peft_gives(made: Path, tmp_path: Path) -> None:
    library = allround.Library.open(made / "lib")
    names = library.names
    assert names == sorted(path.name for path in (made / "given").iterdir())
    network = bert()
    bank = ModuleBank(Backbone(network), [library.changes(name) for name in names])  # type: ignore[arg-type]
    for number, name in enumerate(names):
        if name == "tuned":
            wanted = BertModel.from_pretrained(made / "given" / name, add_pooling_layer=False).eval()(IDS)[0]
        elif name == "classifier":
            from peft import PeftModel

            whole = BertForSequenceClassification(network.config).eval()
            whole.bert.load_state_dict(bert().state_dict(), strict=False)
            wanted = PeftModel.from_pretrained(whole, str(made / "given" / name)).eval().bert(IDS)[0]
        else:
            wanted = outputs_of(bert(), made / "given" / name, IDS)
        with torch.inference_mode(), bank.using(torch.eye(len(names))[[number] * len(IDS)]):
            assert torch.allclose(network(IDS)[0], wanted, atol=1e-5), name
        if name in ("plain", "dora", "saved", "classifier", "tuned"):
            library.materialise(name, tmp_path / name)
            alone = BertModel.from_pretrained(tmp_path / name, add_pooling_layer=False).eval()
            assert torch.allclose(alone(IDS)[0], wanted, atol=1e-5), name
    assert set(library.card("classifier").aside) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_modules_of_language_models_give_what_peft_gives(family: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", family)
    layers = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}[family]
    flipped = {"fan_in_fan_out": family == "gpt2"}
    kinds: dict[str, dict[str, object]] = {
        "plain": {"r": 4, "lora_alpha": 8, "target_modules": layers, "use_rslora": True, **flipped},
        "own-output": {"r": 2, "target_modules": layers, "modules_to_save": ["lm_head"], **flipped},
    }
    if family == "llama":
        kinds["dora"] = {"r": 3, "use_dora": True, "target_modules": layers, "rank_pattern": {"q_proj": 2}}
        kinds["norms"] = {"r": 2, "target_modules": layers, "modules_to_save": ["input_layernorm"]}
    library = Library.create(tmp_path / "lib", base)
    for seed, (name, settings) in enumerate(kinds.items()):
        adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / name, seed, **settings)
        library.add(tmp_path / name)
        from peft import PeftModel

        network = AutoModelForCausalLM.from_pretrained(base)
        # In double precision: in single, either is off by more than 1e-5 by rounding alone.
        wanted = PeftModel.from_pretrained(network, str(tmp_path / name)).eval().double()(IDS).logits
        library.materialise(name, tmp_path / f"{name}-whole")
        found = AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-whole").eval().double()(IDS).logits
        assert torch.allclose(found, wanted, atol=1e-5), name
    assert library.card("plain").ranks == (4,)
    assert library.card("own-output").aside == ()


def test_cards_say_what_is_in_a_module(made: Path) -> None:
    cards = Library.open(made / "lib").cards()
    # Two layers: query is 16 to 16; the three dense layers are 16 to 16, 16 to 24 and 24 to 16.
    plain = cards["plain"]
    assert (plain.form, plain.ranks, plain.tensors) == ("adapter", (4,), 8)
    assert plain.numbers == 2 * 4 * (32 + 32 + 40 + 40)
    assert plain.bytes == (made / "given" / "plain" / "adapter_model.safetensors").stat().st_size
    assert plain.licence == "mit" and cards["mixed"].licence is None
    assert cards["mixed"].ranks == (2, 4) and cards["mixed"].rank_words == "2-4"
    tuned = cards["tuned"]  # a weight and a bias of 16 numbers, and a scale and a shift
    assert (tuned.form, tuned.ranks, tuned.tensors, tuned.numbers) == ("tensors", (), 4, 256 + 3 * 16)
    for name in ("plain", "dora", "tuned", "saved"):
        changes = whole_change(Library.open(made / "lib"), name)
        square = sum(float(change.double().square().sum()) for change in changes.values())
        assert cards[name].norm == pytest.approx(square**0.5, rel=1e-5), name


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="how many files are open is asked of Linux")
def test_few_files_are_open_however_many_modules_are_read(made: Path) -> None:
    library = Library.open(made / "lib")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    read = [library.changes(name) for _ in range(12) for name in library]
    for changes in read:
        for tensor in changes:
            changes.get(tensor)
    assert len(read) > 90 and len(os.listdir("/proc/self/fd")) - before < 70  # noqa: PTH208


def test_a_full_model_is_kept_as_it_is_or_cut_to_a_rank(made: Path, tmp_path: Path) -> None:
    library = Library.open(made / "lib")
    library.materialise("tuned", tmp_path / "again")
    given = load_file(made / "given" / "tuned" / "model.safetensors")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert given.keys() == again.keys() and all(torch.equal(given[name], again[name]) for name in given)
    stored = load_file(library.folder_of("tuned") / "replaced.safetensors")
    base = load_file(made / "base" / "model.safetensors")
    assert set(stored) == {name for name in base if not torch.equal(base[name], given[name])}
    # By hand: what four singular directions of the one matrix hold; vectors are held whole.
    library.add(made / "given" / "tuned", "cut", rank=4)
    try:
        card = library.card("cut")
        matrix = "encoder.layer.0.attention.self.query.weight"
        squares = {name: (given[name] - base[name]).double().square().sum() for name in stored}
        singular = torch.linalg.svdvals((given[matrix] - base[matrix]).double()).square()
        lost = float(singular[4:].sum() / sum(squares.values()))
        assert card.form == "adapter" and card.ranks == (4,)
        assert card.held == pytest.approx(1 - lost, abs=1e-6)
        assert library.similarity("tuned", "cut") == pytest.approx((1 - lost) ** 0.5, abs=1e-5)
    finally:
        library.drop("cut")


def test_likeness_by_factors_and_by_sketches(made: Path, tmp_path: Path) -> None:
    library = Library.create(tmp_path / "lib", made / "base")
    settings = {"r": 4, "lora_alpha": 4, "target_modules": ["query", "value", "dense"]}
    for seed in (0, 1):
        adapter(bert(), tmp_path / str(seed), seed, **settings)
    first = load_file(tmp_path / "0" / "adapter_model.safetensors")
    draw = torch.Generator().manual_seed(5)
    for name, noise in (("close", 0.02), ("half", 0.7)):
        shaken = {k: t + noise * t.std() * torch.randn(t.shape, generator=draw) for k, t in first.items()}
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_bytes((tmp_path / "0" / "adapter_config.json").read_bytes())
        save_file(shaken, tmp_path / name / "adapter_model.safetensors")
    adapter(bert(), tmp_path / "still", 3, **{**settings, "init_lora_weights": True})
    zero = load_file(tmp_path / "still" / "adapter_model.safetensors")
    save_file({k: t * ("lora_A" in k) for k, t in zero.items()}, tmp_path / "still" / "adapter_model.safetensors")
    for place in ("0", "1", "close", "half", "still", made / "given" / "dora", made / "given" / "tuned"):
        library.add(place if isinstance(place, Path) else tmp_path / place)
    from allround.composition.library.likeness import read_sketch

    sketches = {name: read_sketch(library.place(name)).astype(np.float64) for name in library}
    whole = {name: whole_change(library, name) for name in library}
    for one in library:
        for other in library:
            both = whole[one].keys() & whole[other].keys()
            product = sum(float((whole[one][t].double() * whole[other][t].double()).sum()) for t in both)
            norms = library.card(one).norm * library.card(other).norm
            exact = product / norms if norms else 0.0
            assert library.similarity(one, other) == pytest.approx(exact, abs=1e-5), (one, other)
            lengths = np.linalg.norm(sketches[one]) * np.linalg.norm(sketches[other])
            sketched = sketches[one] @ sketches[other] / lengths if lengths else 0.0
            assert abs(sketched - exact) < 0.15, (one, other)
            assert abs(sketched - exact) < 0.01 or exact < 0.99, (one, other)
    near = library.nearest()
    assert near["0"] is not None and near["0"].name == "close" and near["0"].near
    assert near["half"] is not None and near["half"].name in ("0", "close") and not near["half"].near
    assert near["still"] is None
    assert library.dedupe() == {} and library.dedupe(near=0.01) == {}
    assert library.dedupe(near=0.2, dry_run=True) == {"close": "0"} and "close" in library
    assert library.dedupe(near=0.2) == {"close": "0"} and "close" not in library


def test_nothing_that_is_there_is_rewritten(made: Path, tmp_path: Path) -> None:
    library = Library.create(tmp_path / "lib", made / "base")
    library.add(made / "given" / "plain")
    before = states(library.folder)
    library.add(made / "given" / "plain", "again")
    library.add(made / "given" / "rslora")
    assert library.duplicates() == [["again", "plain"]]
    assert before.items() <= states(library.folder).items()
    written = states(library.place("rslora"))
    library.rename("rslora", "other")
    assert states(library.place("other")) == written and "rslora" not in library
    assert library.dedupe() == {"plain": "again"}
    library.drop("other")
    assert library.names == ["again"] and library.card("again").ranks == (4,)
    assert sorted(path.name for path in (library.folder / "modules").iterdir()) == ["again"]
    library.export("again", tmp_path / "out")
    for file in (made / "given" / "plain").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_models_that_allround_saved_keep_tasks_and_heads(
    small_image: SmallImage, digits_suite: Suite, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    small_image.save(tmp_path / "base")
    definitions = {name: digits_suite[name].definition for name in ("digit", "ink")}
    model = MultiTaskModel(copy.deepcopy(small_image), definitions)
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.facts = {"made_by": {"rows": {"digit": 60}}, "scores": {"digit": {"metric": "accuracy", "test": 0.75}}}
    model.save(tmp_path / "both")
    library = Library.create(tmp_path / "lib", tmp_path / "base")
    card = library.add(tmp_path / "both", tasks={"ink": TunedTask("rmse", 1.5, 60)}, licence="mit")
    assert card.tasks == {"digit": TunedTask("accuracy", 0.75, 60), "ink": TunedTask("rmse", 1.5, 60)}
    assert library.tasks("both") == model.definitions and set(library.heads("both")) == set(definitions)
    assert library.member("both").tasks == ("digit", "ink") and card.licence == "mit"
    library.materialise("both", tmp_path / "again")
    rows = digits_suite["digit"].splits["test"].inputs
    again = allround.load(tmp_path / "again")
    assert again.facts["scores"] == model.facts["scores"]
    for task in definitions:
        assert again.answers(task, rows).predictions.tolist() == model.answers(task, rows).predictions.tolist()
    # Only the heads were tuned: a module that changes nothing, and that is not the same as one with other heads.
    for name, seed in (("one", 1), ("two", 2)):
        alone = MultiTaskModel(small_image, {"digit": definitions["digit"]})
        torch.manual_seed(seed)
        alone.heads["digit"].weight.data.normal_()  # type: ignore[union-attr,operator]
        alone.save(tmp_path / name)
        assert library.add(tmp_path / name).norm == 0
    assert library.duplicates() == [] and library.dedupe(near=0.1) == {}
    # A module goes into another library of the base with all that is known of it.
    other = Library.create(tmp_path / "other", tmp_path / "base")
    moved = other.add(library.place("both"))
    assert {**asdict(moved), "origin": card.origin} == asdict(card)
    assert other.similarity("both", "both") == pytest.approx(1) and set(other.heads("both")) == set(definitions)
    # A system of another sort has no module.
    about = read_json(tmp_path / "one" / "allround.json")
    write_json(tmp_path / "one" / "allround.json", {**about, "sort": "ensemble"})
    with pytest.raises(AllroundError, match="a system of the sort 'ensemble'"):
        library.add(tmp_path / "one", "ensemble")


# -- what is refused ---------------------------------------------------------------------------------------------------


def copied(source: Path, target: Path, change: Mapping[str, torch.Tensor] | None = None) -> Path:
    """An adapter's folder again, with other tensors."""
    target.mkdir()
    (target / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    tensors = load_file(source / "adapter_model.safetensors")
    save_file({**tensors, **(change or {})}, target / "adapter_model.safetensors")
    return target


def test_modules_that_do_not_fit_are_refused_by_name(made: Path, tmp_path: Path) -> None:
    library = Library.create(tmp_path / "lib", made / "base")
    plain = made / "given" / "plain"
    key = next(iter(load_file(plain / "adapter_model.safetensors")))
    odd = load_file(plain / "adapter_model.safetensors")[key]
    adapter(gpt2(), tmp_path / "gpt2", 0, r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    gpt2().save_pretrained(tmp_path / "whole")
    short = load_file(made / "given" / "tuned" / "model.safetensors")
    short["embeddings.word_embeddings.weight"] = short["embeddings.word_embeddings.weight"][:-1].clone()
    copied(plain, tmp_path / "named")
    about = {"encoder": "text", "settings": {}, "base": {"path": "../../base", "content": "0" * 64}}
    (tmp_path / "named" / "allround_encoder.json").write_text(json.dumps(about))
    (tmp_path / "short").mkdir()
    save_file(short, tmp_path / "short" / "model.safetensors")
    refused = {
        copied(plain, tmp_path / "nan", {key: odd * float("nan")}): "holds NaN or infinity",
        copied(plain, tmp_path / "wide", {key: torch.ones(4, 17)}): "does not fit|has the shapes",
        tmp_path / "gpt2": "are not in the base",
        tmp_path / "whole": "it lacks .* of the base",
        tmp_path / "short": "1 tensor of it are others than in the base|1 tensor",
        tmp_path / "named": "it says that it changes another base",
        made / "base": "it has the same weights as the base",
        tmp_path / "nothing": "there is no such folder",
    }
    for place, words in refused.items():
        with pytest.raises(AllroundError, match=words) as caught:
            library.add(place)
        assert place.name in str(caught.value), place
    assert library.names == [] and list((library.folder / "modules").iterdir()) == []
    for name in ("../out", "a/b", "", ".hidden", "x" * 200):
        with pytest.raises(AllroundError, match="not safe as a file name"):
            library.add(plain, name)
        with pytest.raises(AllroundError, match=r"has none of that name|not safe"):
            library.card(name)
    library.add(plain)
    for use in (library.add, library.rename):
        with pytest.raises(AllroundError, match="has a module of the name 'plain'"):
            use("plain" if use == library.rename else plain, "plain")
    with pytest.raises(AllroundError, match="has a module of the name 'plain'"):
        library.add(plain, "Plain")  # which some disks do not tell from it
    with pytest.raises(AllroundError, match="there is a library already"):
        Library.create(tmp_path / "lib", made / "base")
    with pytest.raises(AllroundError, match="is an adapter"):
        Library.create(tmp_path / "other", plain)


def test_the_base_is_the_one_of_its_creation(made: Path, tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "a" / "base")
    library = Library.create(tmp_path / "a" / "lib", tmp_path / "a" / "base")
    library.add(made / "given" / "plain")
    (tmp_path / "a").rename(tmp_path / "b")  # both are moved together
    assert Library.open(tmp_path / "b" / "lib").changes("plain").get("encoder.layer.0.output.dense.weight") is not None
    (tmp_path / "b" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(AllroundError, match=r"it is not at .*base"):
        Library.open(tmp_path / "b" / "lib").changes("plain")
    assert Library.open(tmp_path / "b" / "lib", tmp_path / "elsewhere").similarity("plain", "plain") == pytest.approx(1)
    with pytest.raises(AllroundError, match="has other weights than the base"):
        Library.open(tmp_path / "b" / "lib", made / "given" / "tuned").changes("plain")


def test_damage_is_said_and_the_others_are_listed(made: Path, tmp_path: Path) -> None:
    library = Library.create(tmp_path / "lib", made / "base")
    names = ["broken", "foreign", "fine", "linked", "far", "shapeless", "newer"]
    for name in names:
        library.add(made / "given" / "rslora", name)
    modules = library.folder / "modules"
    (modules / "broken" / "card.json").write_text('{"format": 1, "base": 3}')
    for name, change in (("foreign", {"base": "0" * 64}), ("far", {"tasks": {"../x": {}}}), ("newer", {"format": 2})):
        write_json(modules / name / "card.json", {**read_json(modules / name / "card.json"), **change})
    np.save(modules / "shapeless" / "sketch.npy", np.ones(3))
    (modules / "linked" / "module" / "adapter_model.safetensors").unlink()
    (modules / "linked" / "module" / "adapter_model.safetensors").symlink_to(tmp_path / "secret")
    (modules / "away").symlink_to(tmp_path)
    (modules / "notes").mkdir()
    said = cli("library", "list", library.folder, code=2)
    assert "fine" in said and "3 modules of" in said
    for words in ("its card.json is damaged: base", "it is a module of another base", "tasks: names become file names",
                  "sketch.npy is damaged", "it is a link to another folder", "the folder holds no card.json",
                  "was written in format 2"):  # fmt: skip
        assert words in said, words
    for use in (library.changes, library.folder_of, lambda name: library.export(name, tmp_path / "out")):
        with pytest.raises(AllroundError, match="is a link, which a library does not write"):
            use("linked")
    (modules / "fine" / "module" / "mine.txt").write_text("the user's")
    with pytest.raises(AllroundError, match="there is something in it that was not written with it"):
        library.drop("fine")
    library.drop("away")
    assert made.is_dir() and tmp_path.is_dir() and "away" not in library
    for text, words in (("[]", "damaged"), ('{"format": "allround library 9"}', "upgrade"), ("{", "not readable")):
        (library.folder / "library.json").write_text(text)
        with pytest.raises(AllroundError, match=words):
            Library.open(library.folder)


def test_a_module_is_whole_or_not_there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allround.composition.library import adding
    from allround.composition.library import library as module

    library, plain = Library.create(tmp_path / "lib", made / "base"), made / "given" / "plain"
    modules = library.folder / "modules"
    library.add(plain, "first")
    with monkeypatch.context() as patch:  # ended while it writes, and a disk that is full
        for error, expected in ((KeyboardInterrupt(), "KeyboardInterrupt"), (OSError(28, "x"), "the disk is full")):

            def fail(*_: object, error: BaseException = error, **more: object) -> None:
                raise error

            patch.setattr(adding, "write_sketch", fail)
            with pytest.raises((KeyboardInterrupt, AllroundError)) as caught:
                library.add(plain, "second")
            assert expected in f"{type(caught.value).__name__}{caught.value}"
            assert [path.name for path in modules.iterdir()] == ["first"]
    for left in ("second", "third"):  # killed: a half-made folder, and one that was being dropped
        (modules / f".{left}.partial" / "new" / left).mkdir(parents=True)
        (modules / f".{left}.partial" / LOCK).write_text("output")
        (modules / f".{left}.partial" / "new" / left / "card.json").write_text("{")
    assert library.names == ["first"]
    held = locked_folder(modules / ".second.partial", modules / "second", "output")  # another adds the same name
    with held, pytest.raises(AllroundError, match="another process is writing it"):
        library.add(plain, "second")
    library.add(plain, "second")
    assert sorted(path.name for path in modules.iterdir()) == ["first", "second"]
    # Another process adds it between the first look and the lock.
    looked = Library._check_free

    def late(self: Library, name: str, asked: str, beside: str | None = None) -> None:
        looked(self, name, asked, beside)
        monkeypatch.setattr(Library, "_check_free", looked)
        Library.open(library.folder).add(made / "given" / "rslora", name)

    monkeypatch.setattr(Library, "_check_free", late)
    with pytest.raises(AllroundError, match="has a module of the name 'third'"):
        library.add(plain, "third")
    assert library.card("third").ranks == (2,) and module.MODULES == "modules"


# -- commands ----------------------------------------------------------------------------------------------------------


def test_killed_while_adding_the_library_is_whole(made: Path, tmp_path: Path) -> None:
    before = Library.create(tmp_path / "whole", made / "base")
    before.add(made / "given" / "plain", "first")
    kept = contents(before.folder)
    moments = added_in_a_fork(before.folder, made / "given" / "dora")
    whole = contents(before.folder)
    found = set()
    for moment in range(1, moments + 1, max(1, moments // 12)):
        library = Library.create(tmp_path / f"killed{moment}", made / "base")
        library.add(made / "given" / "plain", "first")
        assert added_in_a_fork(library.folder, made / "given" / "dora", moment) == 0, "it was killed"
        again = Library.open(library.folder)
        there = {name: data for name, data in contents(library.folder).items() if not name.startswith(".")}
        assert there == (whole if "second" in again else kept), f"moment {moment} of {moments}"
        found.add("second" in again)
        if "second" not in again:
            again.add(made / "given" / "dora", "second")
        again.add(made / "given" / "plain", "third")
        again.drop("third")
        assert contents(library.folder) == whole, f"what was left is swept, moment {moment} of {moments}"
    assert False in found, "some kill came before the module was there"


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the modules of a library, hidden ones among them, but locks."""
    place = folder / "modules"
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*"))
            if path.is_file() and path.name != LOCK}  # fmt: skip


def added_in_a_fork(library: Path, module: Path, moment: int = 0) -> int:
    """Add a module in a process of its own, which is killed as it touches files below the library so often; 0 then.

    moment: 0 lets it end; how often it touched files comes back.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        touched = 0

        def look(event: str, given: tuple[object, ...]) -> None:
            nonlocal touched
            watched = event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
            if watched and str(library) in " ".join(map(str, given)):
                touched += 1
                if touched == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(look)
        try:
            Library.open(library).add(module, "second")
            os.write(writer, touched.to_bytes(4, "big"))
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with open(reader, "rb") as told:
        said = told.read()
    assert os.WIFSIGNALED(status) == (moment > 0)
    return int.from_bytes(said, "big")


def test_the_commands(made: Path, tmp_path: Path) -> None:
    lib, given = tmp_path / "lib", made / "given"
    cli("library", "create", lib, "--base", made / "base")
    (tmp_path / "bad").mkdir()
    said = cli("library", "add", lib, given / "plain", tmp_path / "bad", given / "dora", "--task", "topic", code=2)
    assert "added     plain: adapter of rank 4" in said and "added     dora" in said
    assert "bad" in said.partition("2 of 3 modules were added")[2]
    added = json.loads(cli("library", "add", lib, given / "tuned", "--name", "cut", "--rank", 4, "--json"))
    assert added["added"]["cut"]["ranks"] == [4] and added["refused"] == {}
    cli("library", "add", lib, given / "plain", "--name", "twin")
    listed = cli("library", "list", lib)
    assert "the same  plain, twin" not in listed, "they were tuned on other tasks"
    assert "twin (1.00, nearly the same)" in listed and "topic" in listed
    found = json.loads(cli("library", "list", lib, "--json"))
    assert list(found["modules"]) == ["cut", "dora", "plain", "twin"]
    nearest = found["modules"]["plain"]["nearest"]
    assert nearest == {"name": "twin", "cosine": pytest.approx(1), "difference": 0}
    assert "licence      mit" in cli("library", "show", lib, "plain")
    cli("library", "rename", lib, "twin", "again")
    assert "dropped again: it is plain" in cli("library", "dedupe", lib, "--near", 0.01)
    cli("library", "materialise", lib, "dora", "-o", tmp_path / "model")
    cli("library", "export", lib, "plain", "-o", tmp_path / "adapter")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    cli("library", "drop", lib, "dora", "cut")
    with pytest.raises(AllroundError, match="did you mean 'plain'"):
        cli("library", "drop", lib, "plian")
    assert Library.open(lib).names == ["plain"]


def test_listing_loads_no_torch(made: Path) -> None:
    code = ("import sys\nfrom allround.cli.app import app\n"
            f"app(['library', 'list', {str(made / 'lib')!r}], standalone_mode=False)\n"
            "print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules])")  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]" and "topic (81.2)" in ran.stdout
