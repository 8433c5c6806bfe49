"""Builds with tiny language models: adapters, merges, predictions, and folders for transformers."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from tests.models.language import save_model

import allround
from allround.building import Options, build
from allround.building.runs.cleaning import clean
from allround.checkpoints.weights import Weights
from allround.core.errors import AllroundError
from allround.core.files import read_json
from allround.merging.recipe import Model
from allround.merging.run import merge_folders
from allround.merging.sources import open_model
from allround.models.base import load_encoder
from allround.tasks.make import make_task
from allround.tasks.suite import Suite
from allround.training.settings import Settings

SAID = ("lost", "late", "lost again", "too late")
FAMILIES = ("llama", pytest.param("t5", marks=pytest.mark.slow))


@pytest.fixture(scope="module")
def suite() -> Suite:
    """A task whose answers are chosen, and one whose answers are written."""
    rows = [{"message": f"The parcel {n} is {SAID[n % 4]}", "topic": ("lost", "late")[n % 2], "said": SAID[n % 4]}
            for n in range(20)]  # fmt: skip
    data = {"train": rows[:12], "validation": rows[12:16], "test": rows[16:]}
    topic = make_task("topic", kind="classification", inputs=["message"], target="topic", data=data,
                      prompt="{message} Topic:")  # fmt: skip
    said = make_task("said", kind="text", inputs=["message"], target="said", data=data, prompt="{message} Say:",
                     max_new_tokens=6)  # fmt: skip
    return Suite("two", [topic, said])


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with LoRA, moved to another place afterwards."""
    folder = tmp_path_factory.mktemp(request.param)
    base = save_model(folder / "model", request.param, chat=True)
    settings = Settings(
        tune="lora", lora_rank=2, epochs=5, learning_rate=0.03, batch_size=6, device="cpu", precision="fp32"
    )
    options = Options(settings=settings, methods=("divmerge",), trials=1, workers=1, baselines=False,
                      resamples=100, joint=False)  # fmt: skip
    build(suite, out=folder / "first" / "run", base=str(base), options=options)
    shutil.move(folder / "first", folder / "moved")
    return folder / "moved" / "run"


def piece(run: Path, name: str) -> Path:
    (found,) = (run / "pieces").glob(f"{name}-*")
    return found


def test_specialists_are_stored_as_adapters_of_the_base_beside_them(run: Path, suite: Suite) -> None:
    base, changed = piece(run, "base") / "encoder", False
    for task in suite.tasks:
        folder = piece(run, f"specialist-{task}")
        assert sorted(p.name for p in (folder / "encoder").iterdir()) == [
            "adapter_config.json", "adapter_model.safetensors", "allround_encoder.json"]  # fmt: skip
        assert read_json(folder / "encoder" / "adapter_config.json")["base_model_name_or_path"] is None
        assert not Path(read_json(folder / "encoder" / "allround_encoder.json")["base"]["path"]).is_absolute()
        # What PEFT makes of the base and the adapter is what is loaded, and what merges read.
        from peft import PeftModel

        network = load_encoder(base).backbone
        with warnings.catch_warnings():  # peft asks transformers for an attribute by its old name
            warnings.simplefilter("ignore", FutureWarning)
            wanted = PeftModel.from_pretrained(network, str(folder / "encoder")).merge_and_unload()
        model = allround.load(folder)
        loaded = dict(model.encoder.backbone.named_parameters())
        start = load_encoder(base).backbone
        for name, weight in wanted.named_parameters():
            assert torch.allclose(loaded[name], weight, atol=1e-6)
        changed |= any(not torch.equal(loaded[name], weight) for name, weight in start.named_parameters())
        row = suite.tasks[task].splits["test"].inputs[:1]
        assert len(model.answers(task, row)) == 1
    assert changed or load_encoder(base).net.two_parts


def test_merges_read_adapters_as_the_models_that_they_stand_for(run: Path, tmp_path: Path) -> None:
    base = piece(run, "base") / "encoder"
    adapters = [piece(run, f"specialist-{task}") / "encoder" for task in ("topic", "said")]
    whole = []
    for number, folder in enumerate(adapters):
        (tmp_path / f"whole{number}").mkdir()
        load_encoder(folder).save(tmp_path / f"whole{number}")
        whole.append(tmp_path / f"whole{number}")
        alone = open_model(Model(str(folder)), None)
        stored = Weights(whole[-1])
        assert all(torch.allclose(alone.get(name), stored.get(name), atol=1e-6) for name in stored)
    found = []
    for number, models in enumerate((adapters, whole)):
        (tmp_path / f"out{number}").mkdir()
        merge_folders(base, models, tmp_path / f"out{number}", method="average")
        found.append(Weights(tmp_path / f"out{number}"))
    assert set(found[0]) == set(found[1])
    assert all(torch.allclose(found[0].get(name), found[1].get(name), atol=1e-6) for name in found[0])


def test_the_best_model_is_whole_and_writes_in_transformers_what_it_writes_here(run: Path, suite: Suite) -> None:
    import transformers

    best = allround.load(run / "best")
    folder = run / "best" / "encoder"
    assert (folder / "model.safetensors").is_file() and not (folder / "adapter_config.json").exists()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert tokenizer.chat_template is not None and (folder / "generation_config.json").is_file()
    parts = "Seq2Seq" if best.encoder.net.two_parts else "Causal"
    network = getattr(transformers, f"AutoModelFor{parts}LM").from_pretrained(str(folder))
    rows = suite.tasks["said"].splits["test"].inputs
    answers = best.answers("said", rows).predictions
    for (message,), answer in zip(rows, answers, strict=True):
        talk = [{"role": "user", "content": f"{message} Say:"}]
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=parts == "Seq2Seq")["input_ids"]
        made = network.generate(ids, max_new_tokens=6, do_sample=False)[0]
        made = made[1:] if parts == "Seq2Seq" else made[ids.shape[1] :]
        assert (tokenizer.decode(made, skip_special_tokens=True).strip(),) == answer


def test_the_base_of_specialists_that_stay_stays(run: Path) -> None:
    found = clean(run, keep=["specialist-*"], dry_run=True)
    assert {key.rpartition("-")[0] for key in found.kept} == {"specialist-topic", "specialist-said", "base"}


def test_an_adapter_without_its_base_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(piece(run, "specialist-topic"), tmp_path / "pieces" / "alone")
    with pytest.raises(AllroundError, match="the base that it changes is not there"):
        allround.load(tmp_path / "pieces" / "alone")
    shutil.copytree(piece(run, "base"), tmp_path / "pieces" / piece(run, "base").name)
    assert allround.load(tmp_path / "pieces" / "alone")
    file = tmp_path / "pieces" / "alone" / "encoder" / "allround_encoder.json"
    about = file.read_text()
    file.write_text(about.replace(f"../../{piece(run, 'base').name}", "../../alone"))
    with pytest.raises(AllroundError, match="is an adapter itself"):
        allround.load(tmp_path / "pieces" / "alone")
    file.write_text(about.replace("../../base", "../../../base"))
    with pytest.raises(AllroundError, match="names no base beside it"):
        allround.load(tmp_path / "pieces" / "alone")
