"""Bases whose files do not fit, are damaged, or would make a library run code: whole and known, or an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from allround.checkpoints.prefixes import find_prefix
from allround.core.errors import AllroundError
from allround.models.base import load_encoder, open_encoder
from allround.models.encoder import Encoder, hash_tensors
from allround.models.head_files import read_heads
from allround.tasks.suite import Suite

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of two layers with random weights."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("tiny") / "vit"
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16,
                       patch_size=8)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(config).save_pretrained(folder)
    given = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return folder


@pytest.fixture(params=["plain", "pipeline", "image"])
def kind(request: pytest.FixtureRequest) -> str:
    """A folder of transformers, one of sentence-transformers, and one of a vision model."""
    name: str = request.param
    return name


@pytest.fixture
def base(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name = {"plain": "hf_folder", "pipeline": "bert_folder", "image": "vit_folder"}[kind]
    return shutil.copytree(request.getfixturevalue(name), tmp_path / "base")


@pytest.fixture
def text(hf_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(hf_folder, tmp_path / "text")


def weights(folder: Path, edit: Callable[[Tensors], Tensors], file: str = "model.safetensors") -> None:
    save_file(edit(load_file(folder / file)), folder / file, {"format": "pt"})


def settings(folder: Path, file: str = "config.json", **values: Any) -> None:
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**found, **values}))


def refused(folder: Path, *words: str) -> AllroundError:
    with pytest.raises(AllroundError) as caught:
        load_encoder(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.asked and caught.value.found and caught.value.do
    return caught.value


# Weights that fit under other names.

PREFIXES = ["_orig_mod.", "module.", "model.", "base_model.model.", "_orig_mod.module.", "bert.", "student.bert."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_seen_through(base: Path, prefix: str) -> None:
    expected = hash_tensors(load_encoder(base))
    weights(base, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    found = load_encoder(base)
    assert hash_tensors(found) == expected
    folder = base.parent / "saved"
    folder.mkdir()
    found.save(folder)
    assert not any(name.startswith(prefix) for name in load_file(folder / "model.safetensors"))
    assert hash_tensors(load_encoder(folder)) == expected


def test_a_prefix_is_found_when_some_names_differ() -> None:
    names = [f"layer.{i}.{part}" for i in range(9) for part in ("weight", "norm.gamma.of.the.longest.name")]
    known = [f"module.{name}" for name in names if "gamma" not in name]
    assert find_prefix(names, known) == ("module.", "")
    assert find_prefix([f"module.{n}" for n in names], [n for n in names if "gamma" not in n]) == ("", "module.")
    assert find_prefix(["a.b", "c"], ["x.a.b", "c"]) == ("", ""), "as many are found without"


def test_weights_in_several_files_are_one_base(hf_folder: Path, text: Path) -> None:
    tensors = load_file(text / "model.safetensors")
    expected = hash_tensors(load_encoder(hf_folder))
    (text / "model.safetensors").unlink()
    half = sorted(tensors)[::2]
    files = {
        "model-00001-of-00002.safetensors": half,
        "model-00002-of-00002.safetensors": sorted(set(tensors) - {*half}),
    }
    for prefix in ("", "_orig_mod."):
        for file, names in files.items():
            save_file({prefix + n: tensors[n] for n in names}, text / file, {"format": "pt"})
        where = {prefix + n: file for file, names in files.items() for n in names}
        (text / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
        assert hash_tensors(load_encoder(text)) == expected
    lost = next(n for n in half if "encoder" in n)
    save_file({"_orig_mod." + n: tensors[n] for n in half if n != lost}, text / "model-00001-of-00002.safetensors")
    where.pop("_orig_mod." + lost)
    (text / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    refused(text, "1 missing", lost)


# Weights that do not fit.


def _without_a_layer(tensors: Tensors) -> Tensors:
    return {n: t for n, t in tensors.items() if ".1." not in n}


def _further_layer(tensors: Tensors) -> Tensors:
    return {**tensors, **{n.replace(".1.", ".2."): t.clone() for n, t in tensors.items() if ".1." in n}}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_without_a_layer, ("missing", ".1.")),
        (_further_layer, ("not of the network", ".2.")),
        (lambda tensors: {f"other{i}": t for i, t in enumerate(tensors.values())}, ("missing", "embeddings.")),
        (lambda tensors: {n: t.flatten()[:8].clone() if "position" in n else t for n, t in tensors.items()},
         ("1 of another shape", ": (8,), in the network (")),
        (lambda tensors: {n: t for n, t in tensors.items() if not n.endswith("bias")}, ("missing", "bias", ", ...")),
    ],
    ids=["a layer left out", "a layer more", "nothing in common", "another shape", "no biases"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_an_error_that_lists_them(
    base: Path, edit: Callable[[Tensors], Tensors], words: tuple[str, ...], prefix: str
) -> None:
    weights(base, lambda tensors: {prefix + name: tensor for name, tensor in edit(tensors).items()})
    refused(base, "are not those of the network that config.json describes", *words)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_configuration_of_another_number_of_layers(base: Path, layers: int) -> None:
    settings(base, num_hidden_layers=layers)
    refused(base, "16 not of the network" if layers == 1 else "16 missing", ".1." if layers == 1 else ".2.")


def test_an_unused_pooler_may_be_missing(base: Path, kind: str, text_suite: Suite, digits_suite: Suite) -> None:
    weights(base, lambda tensors: {n: t for n, t in tensors.items() if "pooler" not in n})
    task = digits_suite.tasks["digit"] if kind == "image" else text_suite.tasks["mood"]
    encoder = open_encoder(str(base), [task], 0, {})
    assert not [n for n in encoder.state_dict() if "pooler" in n], "no random weights stay behind"
    assert len(encoder.notes) == 1 and "pooler" in encoder.notes[0]
    folder = base.parent / "saved"
    folder.mkdir()
    encoder.save(folder)
    again = load_encoder(folder)
    assert hash_tensors(again) == hash_tensors(encoder)
    rows = task.splits["test"].inputs[:3]
    batch = encoder.batch(encoder.prepare(rows, task.definition), task.definition)
    with torch.inference_mode():
        found = encoder(batch).values
        assert torch.equal(found, again(batch).values) and found.shape == (3, 32)


def test_a_head_in_the_files_is_not_read(base: Path) -> None:
    expected = hash_tensors(load_encoder(base))
    weights(base, lambda tensors: {**{f"bert.{n}": t for n, t in tensors.items()}, "cls.weight": torch.ones(2, 32)})
    encoder = load_encoder(base)
    assert hash_tensors(encoder) == expected
    assert encoder.notes == ["the base holds more than an encoder; that is not used (cls.weight)"]
    assert load_encoder(base).notes and not list(Encoder.notes)


def test_weights_beside_a_pickle_are_not_taken_for_it(text: Path) -> None:
    """A file of another module makes the folder look as if it had safe weights."""
    (text / "2_Dense").mkdir()
    save_file({"linear.weight": torch.ones(2, 2)}, text / "2_Dense" / "model.safetensors")
    torch.save(load_file(text / "model.safetensors"), text / "pytorch_model.bin")
    (text / "model.safetensors").unlink()
    refused(text, "pytorch_model.bin", "can run code")


def test_a_dense_module_must_be_whole(bert_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    pipeline = SentenceTransformer(str(bert_folder), device="cpu", local_files_only=True)
    pipeline.append(Dense(32, 8))
    pipeline.save_pretrained(str(tmp_path / "base"), create_model_card=False)
    expected = hash_tensors(load_encoder(tmp_path / "base"))
    folder = tmp_path / "base" / "2_Dense"
    whole = load_file(folder / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in whole.items()}, folder / "model.safetensors")
    assert load_encoder(tmp_path / "base").features is not None and expected
    for wrong in (
        {n: t for n, t in whole.items() if "bias" not in n},
        {f"module.{n}": t for n, t in whole.items()},
        {n: t[:1].clone() for n, t in whole.items()},
        {n: t.to(torch.int8) for n, t in whole.items()},
    ):
        save_file(wrong, folder / "model.safetensors")
        refused(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    refused(tmp_path / "base")


# Folders that lack what reads texts or images.


def test_a_folder_without_a_tokenizer(base: Path, kind: str) -> None:
    if kind == "image":
        (base / "preprocessor_config.json").unlink()
        settings(base, image_size=16)
        (base / "allround_encoder.json").write_text(json.dumps({"encoder": "image", "settings": {}}))
        refused(base, "holds no image processor", "preprocessor_config.json")
        return
    (base / "tokenizer.json").unlink()
    refused(base, "holds no tokenizer: none of", "tokenizer.json")
    (base / "tokenizer_config.json").unlink()
    refused(base, "holds no tokenizer: none of", "tokenizer.json, vocab.txt")


def test_a_tokenizer_without_words(text: Path) -> None:
    (text / "tokenizer.json").unlink()
    (text / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (text / "vocab.txt").write_text("")
    refused(text, "no tokens but special ones")


def test_tokens_that_the_network_does_not_know(text: Path, text_suite: Suite) -> None:
    definition = text_suite.tasks["mood"].definition
    tokenizer = json.loads((text / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["cat"] = 4000
    (text / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load_encoder(text)
    assert len(encoder.prepare([("the soup",)], definition)) == 1
    for name, row in (("mood", ("the cat",)), ("alike", ("the soup", "cat")), ("names", (["the", "cat"],))):
        with pytest.raises(AllroundError) as caught:
            encoder.prepare([row], text_suite.tasks[name].definition)
        assert "'cat' the number 4000" in caught.value.found and name in caught.value.asked


@pytest.mark.parametrize("length", [0, -1, -(10**9), 2, True, "8", 8.5e300, float("nan")])
def test_lengths_that_leave_no_room_for_words(hf_folder: Path, length: Any) -> None:
    if length == 8.5e300:
        assert load_encoder(hf_folder, max_length=length).max_length == 64
        return
    with pytest.raises(AllroundError) as caught:
        load_encoder(hf_folder, max_length=length)
    assert caught.value.do


@pytest.mark.parametrize("length", [3, 64, 65, 10**30])
def test_lengths_are_cut_to_what_the_network_can_read(hf_folder: Path, text_suite: Suite, length: int) -> None:
    encoder = load_encoder(hf_folder, max_length=length)
    assert encoder.max_length == min(length, 64)
    assert len(encoder.prepare([("cat " * 500,)], text_suite.tasks["mood"].definition)[0]["ids"][0]) == min(length, 64)


@pytest.mark.parametrize("claimed", [0, -5, "x", 10**30, None, 0.5])
def test_lengths_that_a_tokenizer_claims(text: Path, text_suite: Suite, claimed: Any) -> None:
    settings(text, "tokenizer_config.json", model_max_length=claimed)
    if claimed not in (10**30, None):
        refused(text)
        return
    encoder = load_encoder(text, max_length=1000)
    assert encoder.max_length == 64
    assert encoder.prepare([("cat " * 500,)], text_suite.tasks["mood"].definition)


def test_positions_before_the_first_token_are_not_counted(text_suite: Suite, hf_folder: Path, tmp_path: Path) -> None:
    """RoBERTa has a row of positions for the padding, and one that is unused."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=64, max_position_embeddings=20, pad_token_id=1)  # fmt: skip
    folder = tmp_path / "roberta"
    RobertaModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(hf_folder / name, folder / name)
    encoder = load_encoder(folder)
    assert encoder.max_length == 18
    definition = text_suite.tasks["mood"].definition
    with torch.inference_mode():
        found = encoder(encoder.batch(encoder.prepare([("cat " * 50,)], definition), definition))
        assert found.values.isfinite().all()


@pytest.mark.parametrize(
    "padding",
    [
        {"strategy": "BatchLongest", "pad_to_multiple_of": 1_000_000_000},
        {"strategy": {"Fixed": 1_000_000_000}, "pad_to_multiple_of": None},
    ],
    ids=["multiple", "fixed"],
)
def test_padding_of_the_tokenizer_takes_no_memory(text: Path, text_suite: Suite, padding: dict[str, Any]) -> None:
    tokenizer = json.loads((text / "tokenizer.json").read_text())
    tokenizer["padding"] = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]", **padding}
    tokenizer["truncation"] = {"direction": "Right", "max_length": 10**12, "strategy": "LongestFirst", "stride": 0}
    (text / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load_encoder(text)
    for name in ("mood", "alike", "names"):
        task = text_suite.tasks[name]
        for row in encoder.prepare(task.splits["test"].inputs[:3], task.definition):
            assert max(map(len, row["ids"])) <= 64


# Configurations that say something else than what the files hold.


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantised"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"compression_config": {"format": "int-quantized"}}, "compressed"),
        ({"transformers_weights": "../other.safetensors"}, "another file"),
        ({"attn_implementation": "somebody/kernel"}, "somebody/kernel"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": 10**9}, ""),
        ({"intermediate_size": 10**9}, "numbers"),
        ({"num_hidden_layers": "two"}, ""),
        ({"num_hidden_layers": -1}, ""),
        ({"num_attention_heads": 0}, ""),
        ({"num_attention_heads": 5}, ""),
        ({"hidden_size": None}, ""),
        ({"hidden_size": 32.5}, ""),
        ({"hidden_act": "nothing"}, "nothing"),
        ({"hidden_act": None}, ""),
        ({"layer_norm_eps": "small"}, ""),
        ({"layer_norm_eps": None}, ""),
        ({"hidden_dropout_prob": 5}, ""),
        ({"hidden_dropout_prob": "x"}, ""),
        ({"model_type": "no such model"}, ""),
        ({"model_type": 3}, ""),
        ({"dtype": "float33"}, ""),
        ({"dtype": 3}, ""),
        ({"_attn_implementation": {"": "x/y"}}, "x/y"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("kind", ["plain", "image"], indirect=True)
def test_configurations_that_are_wrong(base: Path, values: dict[str, Any], word: str) -> None:
    settings(base, **values)
    refused(base, word)


@pytest.mark.parametrize("value", [[], 3, "x", None, {}], ids=str)
def test_a_configuration_that_is_none(base: Path, value: Any) -> None:
    (base / "config.json").write_text(json.dumps(value))
    refused(base)


@pytest.mark.parametrize("size", [10**9, 5, 1])
def test_a_vocabulary_of_another_size(text: Path, size: int) -> None:
    settings(text, vocab_size=size)
    refused(text)


def test_an_adapter_is_no_base(base: Path) -> None:
    (base / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "somebody/else"}')
    refused(base, "adapter of PEFT", "allround merge")


# Code and pickles.


@pytest.mark.parametrize(
    "kind_", ["sentence_transformers.models.WordEmbeddings", "sentence_transformers.models.Nothing",
              "sentence_transformers.base.model.os.system", "sentence_transformers.evil.Pooling",
              "sentence_transformers.sentence_transformer.modules.StaticEmbedding"],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1])
def test_modules_of_other_kinds_are_refused(bert_folder: Path, tmp_path: Path, kind_: str, place: int) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "copy")
    modules = json.loads((folder / "modules.json").read_text())
    modules[place]["type"] = kind_
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"tokenizer_name_or_path": "/etc"},
        {"backend": "onnx"},
        {"model_args": {"gguf_file": "x.gguf"}},
        {"model_kwargs": {"weights_only": False}},
        {"model_kwargs": {"attn_implementation": "somebody/kernel"}},
        {"processor_kwargs": {"tokenizer_file": "/etc/passwd"}},
        {"config_args": {"quantization_config": {"load_in_8bit": True}}},
    ],
    ids=str,
)
def test_settings_that_reach_out_of_the_folder_are_refused(
    bert_folder: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "copy")
    settings(folder, "sentence_bert_config.json", **values)
    refused(folder, "sentence_bert_config.json sets", next(iter(values)))


def test_settings_that_trust_code_trust_none(bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "copy")
    (folder / "evil.py").write_text("raise SystemExit('code of a model was run')\n")
    settings(folder, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    settings(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]})
    settings(folder, "sentence_bert_config.json", model_args={"trust_remote_code": True})
    assert hash_tensors(load_encoder(folder)) == hash_tensors(load_encoder(bert_folder))


# Files of heads.


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.zeros(2, 3)},
        {"mood.weight": torch.zeros(2, 3), "bias": torch.zeros(2)},
        {"mood.weight": torch.zeros(2, 3, dtype=torch.int8)},
    ],
)
def test_heads_that_are_none(tensors: Tensors, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "heads.safetensors")
    with pytest.raises(AllroundError, match="is not a tensor of a task's head"):
        read_heads(tmp_path / "heads.safetensors")


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_heads_that_are_cut_short(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "heads.safetensors"
    save_file({"mood.weight": torch.zeros(2, 3)}, file)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(AllroundError, match="cut short"):
        read_heads(file)


# What allround itself writes.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_merge_in_another_precision_is_a_model_and_a_base(
    bert_folder: Path, text_suite: Suite, dtype: str, tmp_path: Path
) -> None:
    from allround.building.single import evaluate, train
    from allround.checkpoints.header import dtype_name
    from allround.core.progress import Progress
    from allround.merging.layout import make_plan
    from allround.merging.recipe import Model, Recipe
    from allround.merging.save import merge_models
    from allround.models.system import load
    from allround.models.systems.multi_task_model import MultiTaskModel
    from allround.training.settings import Settings

    task = text_suite.tasks["mood"]
    for number, name in enumerate(("mood", "warmth")):
        model = MultiTaskModel(load_encoder(bert_folder), {name: text_suite.tasks[name].definition})
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.data.add_(0.02 * torch.randn(parameter.shape))
        model.save(tmp_path / str(number))
    models = tuple(Model(str(tmp_path / str(number))) for number in range(2))
    recipe = Recipe("average", models, Model(str(bert_folder)), dtype=dtype_name(getattr(torch, dtype)))
    merge_models(make_plan(recipe), tmp_path / "merged")
    stored = {t.dtype for f in (tmp_path / "merged").rglob("model.safetensors") for t in load_file(f).values()}
    assert stored == {getattr(torch, dtype)}

    few = Suite("few", [task.limit({"train": 8, "validation": 6})])
    assert 0 <= evaluate(tmp_path / "merged", few).cells["model"]["mood"].score <= 1
    board = train(few, base=tmp_path / "merged", out=tmp_path / "tuned", settings=Settings(epochs=1),
                  progress=Progress(tmp_path / "log.txt", quiet=True))  # fmt: skip
    assert board.cells["tuned"]["mood"].n == len(few.tasks["mood"].splits["test"])
    assert load(tmp_path / "tuned").predict("mood", ["the cat is fine"])[0] in task.definition.labels
