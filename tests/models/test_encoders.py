"""What every encoder must hold, and what is special to each."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.language import save_model
from torch import nn

from allround import load
from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.files import hash_json
from allround.models.base import load_encoder
from allround.models.batch import Batch
from allround.models.encoder import Encoder, hash_tensors, load_tensors, save_tensors
from allround.models.encoders.adaptive import Adaptive
from allround.models.encoders.lanes import Lanes
from allround.models.encoders.masked import Masked
from allround.models.encoders.module import Module, _given, give
from allround.models.encoders.multitab import Multitab
from allround.models.encoders.pooled import Pooled
from allround.models.encoders.prompted import Levels, Prompted
from allround.models.encoders.sharing import Sharing
from allround.models.encoders.small_image import SmallImage, _views, image_tensor
from allround.models.encoders.small_table import SmallTable
from allround.models.exporting import export_onnx
from allround.models.share.plan import Choice, Insert, Level, Mixing, Plan
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.models.table_inputs import column_for
from allround.tasks.definition import Definition
from allround.tasks.suite import Suite
from allround.training.settings import Settings
from allround.training.trainer import train


class Net(nn.Module):
    """A network of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x.flatten(1)).tanh()
        return found


@dataclass(frozen=True)
class Case:
    """An encoder with a task that it reads, rows of it, and the length of their features."""

    encoder: Encoder
    definition: Definition
    rows: list[tuple[Any, ...]]
    features: int


def _vit(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    try:
        processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    except ImportError as error:
        pytest.skip(f"transformers has no image processor without torchvision: {error}")
    transformers.ViTModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of one layer with random weights."""
    return _vit(tmp_path_factory.mktemp("tiny") / "vit")


def _image(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("digits_suite").tasks["digit"]
    encoder = load_encoder(request.getfixturevalue("vit_folder"))
    return Case(encoder, task.definition, task.splits["test"].inputs[:9], 32)


def _module(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("digits_suite").tasks["digit"]
    torch.manual_seed(0)
    return Case(Module(Net(), dim=12).eval(), task.definition, task.splits["test"].inputs[:9], 12)


def _small_image(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("digits_suite").tasks["digit"]
    encoder = copy.deepcopy(request.getfixturevalue("small_image"))
    return Case(encoder, task.definition, task.splits["test"].inputs[:9], 128)


def _small_table(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("table_suite").tasks["species"]
    encoder = copy.deepcopy(request.getfixturevalue("small_table"))
    return Case(encoder, task.definition, task.splits["test"].inputs[:9], 16 + encoder.inputs)


@pytest.fixture(scope="session")
def onnx_folder(small_table: SmallTable, table_suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small net for tables, exported."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    model = MultiTaskModel(copy.deepcopy(small_table), {"species": table_suite.tasks["species"].definition})
    export_onnx(model, folder)
    return folder / "encoder"


def _onnx(request: pytest.FixtureRequest) -> Case:
    case = _small_table(request)
    return Case(load_encoder(request.getfixturevalue("onnx_folder")), case.definition, case.rows, case.features)


def _multitab(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("table_suite").tasks["species"]
    encoder = Multitab.create(task.splits["train"].inputs, task.definition, 0, width=8, heads=2).eval()
    encoder.add_task(task.name)
    return Case(encoder, task.definition, task.splits["test"].inputs[:9], encoder.features(task.definition))


def _text(name: str, features: int, **options: Any) -> Callable[[pytest.FixtureRequest], Case]:
    def make(request: pytest.FixtureRequest) -> Case:
        task = request.getfixturevalue("text_suite").tasks[name]
        encoder = load_encoder(request.getfixturevalue("bert_folder"), **options)
        return Case(encoder, task.definition, task.splits["test"].inputs[:9], features)

    return make


def _language_model(head: str, features: int) -> Callable[[pytest.FixtureRequest], Case]:
    def make(request: pytest.FixtureRequest) -> Case:
        task = request.getfixturevalue("text_suite").tasks["mood"]
        encoder = load_encoder(request.getfixturevalue("llama_folder"))
        return Case(encoder, replace(task.definition, head=head), task.splits["test"].inputs[:9], features)

    return make


def _sharing(**parts: Any) -> Callable[[pytest.FixtureRequest], Case]:
    def make(request: pytest.FixtureRequest) -> Case:
        task = request.getfixturevalue("text_suite").tasks["mood"]
        inner = load_encoder(request.getfixturevalue("bert_folder"))
        torch.manual_seed(0)
        encoder = Sharing(inner, Plan(**parts), [[task.name, "other"]], [32]).eval()
        return Case(encoder, task.definition, task.splits["test"].inputs[:9], encoder.features(task.definition))

    return make


def _pooled(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("text_suite").tasks["mood"]
    encoder = Pooled.around(load_encoder(request.getfixturevalue("bert_folder")), 16)
    encoder.add_task(task.name)
    return Case(encoder.eval(), task.definition, task.splits["test"].inputs[:9], 32)


def _prompted(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("text_suite").tasks["mood"]
    torch.manual_seed(0)
    encoder = Prompted(load_encoder(request.getfixturevalue("bert_folder")), Levels(pool=4, chosen=2))
    encoder.add_as(task.name, "classification", "one")
    return Case(encoder.eval(), task.definition, task.splits["test"].inputs[:9], 32)


def _masked(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("text_suite").tasks["mood"]
    torch.manual_seed(0)
    encoder = Masked(load_encoder(request.getfixturevalue("bert_folder")), 32, (16, 12), [task.name, "other"])
    encoder.of_task(task.name)[0].data[:4] = -1.0
    return Case(encoder.eval(), task.definition, task.splits["test"].inputs[:9], 12)


def _adaptive(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("text_suite").tasks["mood"]
    torch.manual_seed(0)
    encoder = Adaptive(load_encoder(request.getfixturevalue("bert_folder")), 32, (16, 12), [task.name, "other"])
    encoder.of_task(task.name)[0].share.data.fill_(0.5)
    return Case(encoder.eval(), task.definition, task.splits["test"].inputs[:9], 12)


def _lanes(request: pytest.FixtureRequest) -> Case:
    task = request.getfixturevalue("text_suite").tasks["mood"]
    torch.manual_seed(0)
    inner = load_encoder(request.getfixturevalue("bert_folder"))
    encoder = Lanes(inner, ["other", task.name], selectors=3, prompts=2, layers=1)
    encoder.lane("other").selectors.data.zero_()
    return Case(encoder.eval(), task.definition, task.splits["test"].inputs[:9], 32)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of two layers with random weights."""
    return save_model(tmp_path_factory.mktemp("tiny") / "llama", "llama")


#: A new encoder adds itself here.
CASES: dict[str, Callable[[pytest.FixtureRequest], Case]] = {
    "adaptive": _adaptive,
    "image": _image,
    "lanes": _lanes,
    "language_model": _language_model("", 2),
    "language_model-vector": _language_model("linear", 32),
    "masked": _masked,
    "module": _module,
    "multitab": _multitab,
    "onnx": _onnx,
    "pooled": _pooled,
    "prompted": _prompted,
    "sharing-inside": _sharing(
        inserts=(Insert("sublayers", Mixing(Choice("bottleneck"), owners="tasks", sees="own")),)
    ),
    "sharing": _sharing(levels=(Level(Mixing(Choice("mlp"), Choice("linear"), shared=3), units=8),)),
    "small_image": _small_image,
    "small_table": _small_table,
    "text": _text("mood", 32),
    "text-separate": _text("alike", 128),
    "text-joint": _text("alike", 32, pairs="joint"),
    "text-words": _text("names", 32),
}


#: Those whose weights can be tuned, and so are stored as tensors.
TUNABLE = [name for name in registry.names("encoder") if registry.find("encoder", name).load().tunable]  # type: ignore[attr-defined]


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param](request)


def test_every_encoder_is_checked() -> None:
    assert {name.split("-")[0] for name in CASES} == set(registry.names("encoder"))


def run(encoder: Encoder, definition: Definition, rows: list[tuple[Any, ...]]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = encoder(encoder.batch(encoder.prepare(rows, definition), definition)).values
    return found


def test_features_have_the_shape_that_is_said(case: Case) -> None:
    assert case.encoder.features(case.definition) == case.features
    prepared = case.encoder.prepare(case.rows, case.definition)
    assert len(prepared) == len(case.rows)
    batch = case.encoder.collate(prepared, case.definition)
    assert batch.size == len(case.rows)
    features = run(case.encoder, case.definition, case.rows)
    with torch.inference_mode():
        assert case.encoder(batch).lengths == batch.lengths
    count = sum(batch.lengths) if batch.lengths else len(case.rows)
    assert features.shape == (count, case.features) and features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert features.std(0).max() > 1e-3, "features differ between rows"
    if batch.lengths:
        assert batch.lengths == tuple(len(words) for (words,) in case.rows)


def test_what_rows_are_prepared_by_is_told_and_stays(case: Case, tmp_path: Path) -> None:
    told = hash_json(case.encoder.preparation)
    case.encoder.prepare(case.rows, case.definition)
    case.encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert told == hash_json(case.encoder.preparation) == hash_json(loaded.preparation)


def test_encoders_that_prepare_otherwise_tell_so(
    bert_folder: Path, hf_folder: Path, small_table: SmallTable, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(hf_folder, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    columns = [dict(column) for column in small_table.columns]
    columns[0]["mean"] += 1

    def by(size: int) -> Callable[[tuple[Any, ...]], torch.Tensor]:
        return lambda row: torch.full((size,), float(len(row[0])))

    encoders = [
        *(load_encoder(bert_folder, **settings) for settings in ({}, {"max_length": 8}, {"pairs": "joint"})),
        load_encoder(other),
        *(SmallImage(size=size) for size in (8, 16)),
        *(SmallTable(columns=listed, width=16) for listed in (small_table.columns, columns)),
        *(Module(Net(), dim=12, to_tensor=read) for read in (None, by(64), by(65))),
    ]
    assert len({hash_json(encoder.preparation) for encoder in encoders}) == len(encoders)


def test_rows_are_independent_of_their_batch(case: Case) -> None:
    whole = run(case.encoder, case.definition, case.rows)
    one_by_one = torch.cat([run(case.encoder, case.definition, [row]) for row in case.rows])
    assert torch.allclose(whole, one_by_one, atol=1e-4)
    backwards = [run(case.encoder, case.definition, [row]) for row in reversed(case.rows)]
    turned = run(case.encoder, case.definition, case.rows[::-1])
    assert torch.allclose(turned, torch.cat(backwards), atol=1e-4)


def test_prepared_rows_stack_in_any_company(case: Case) -> None:
    prepared = case.encoder.prepare(case.rows, case.definition)
    alone = [case.encoder.prepare([row], case.definition)[0] for row in case.rows]
    assert repr(prepared) == repr(alone)
    assert all(case.encoder.length(p) >= 1 for p in prepared)
    batch = case.encoder.batch(prepared, case.definition)
    assert batch.task == case.definition.name, "a batch knows its task"
    assert batch.rows == {case.definition.name: tuple(range(len(case.rows)))}
    moved = batch.to(torch.device("cpu"))
    assert moved.size == batch.size and moved.lengths == batch.lengths and moved.rows == batch.rows
    assert all(torch.equal(moved.tensors[k], v) for k, v in batch.tensors.items())


def test_saved_and_loaded_features_are_the_same_bits(case: Case, tmp_path: Path) -> None:
    case.encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert type(loaded) is type(case.encoder) and not loaded.training
    assert hash_tensors(loaded) == hash_tensors(case.encoder)
    assert torch.equal(run(loaded, case.definition, case.rows), run(case.encoder, case.definition, case.rows))
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_a_second_save_is_the_same_weights(case: Case, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        case.encoder.save(tmp_path / name)
        files.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.safetensors"))])
    assert files[0] == files[1]


def test_gradients_reach_every_weight_that_a_task_uses(case: Case) -> None:
    if not case.encoder.tunable:
        pytest.skip("it cannot be tuned")
    encoder = case.encoder.train()
    encoder(
        encoder.batch(encoder.prepare(case.rows, case.definition), case.definition)
    ).values.square().sum().backward()
    frozen = encoder.frozen()
    parameters = [p for p in encoder.parameters() if id(p) not in frozen]
    reached = [p for p in parameters if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(reached) >= 0.5 * len(parameters), "a pooler may lie beside the way"


def test_a_wrong_modality_is_refused(case: Case) -> None:
    for modality in ("text", "image", "table"):
        definition = replace(case.definition, modality=modality)
        if modality in case.encoder.modalities:
            case.encoder.check(definition)
            continue
        with pytest.raises(AllroundError) as caught:
            case.encoder.check(definition)
        assert f"read the {modality} inputs of task '{definition.name}'" in caught.value.asked
        with pytest.raises(AllroundError):
            case.encoder.prepare(case.rows, definition)

    assert case.encoder.numbers > 0


def test_what_an_encoder_says_of_itself(case: Case) -> None:
    entry = registry.find("encoder", case.encoder.name)
    assert entry.load() is type(case.encoder)
    assert 0 < case.encoder.learning_rate < 1 and case.encoder.epochs >= 1
    assert isinstance(case.encoder.backbone, nn.Module)
    assert case.encoder.numbers > 0


# Weights of every precision, by the files and by the configuration.


def stored_as(folder: Path, dtype: str, named: dict[str, str]) -> None:
    """Store the floating tensors of all files in a dtype, and name one in the configuration, where there is one."""
    for file in folder.rglob("*.safetensors"):
        tensors = {n: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for n, t in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
        config.pop("dtype", None)
        (folder / "config.json").write_text(json.dumps({**config, **named}))


def dtypes_in(folder: Path) -> set[torch.dtype]:
    tensors = [t for file in folder.rglob("*.safetensors") for t in load_file(file).values()]
    return {t.dtype for t in tensors if t.is_floating_point()}


@pytest.mark.parametrize(
    ("dtype", "named", "close"),
    [
        ("float32", {"dtype": "bfloat16"}, 0.0),
        ("float32", {"torch_dtype": "float64"}, 0.0),
        ("float16", {"torch_dtype": "float16"}, 2e-3),
        ("bfloat16", {"dtype": "bfloat16"}, 2e-2),
        ("float64", {"dtype": "float64"}, 1e-6),
        ("bfloat16", {"dtype": "float16"}, 2e-2),
    ],
    ids=lambda value: "-".join(*value.items()) if isinstance(value, dict) else str(value),
)
@pytest.mark.parametrize("name", TUNABLE)
def test_every_encoder_is_read_in_float32_whatever_it_is_stored_as(
    name: str, dtype: str, named: dict[str, str], close: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    case = CASES[name](request)
    folder = tmp_path / "stored"
    folder.mkdir()
    case.encoder.save(folder)
    stored_as(folder, dtype, named)
    encoder = load_encoder(folder)
    floats = [t for t in (*encoder.parameters(), *encoder.buffers()) if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float32}
    expected = run(case.encoder, case.definition, case.rows)
    assert torch.allclose(run(encoder, case.definition, case.rows), expected, atol=close * float(expected.abs().max()))

    suites = {"image": "digits_suite", "table": "table_suite", "text": "text_suite"}
    task = request.getfixturevalue(suites[case.definition.modality]).tasks[case.definition.name]
    model = MultiTaskModel(encoder, {task.name: task.definition})
    for weight in model.heads[task.name].parameters():
        nn.init.normal_(weight)
    before = hash_tensors(model.encoder)
    rows = task.limit({"train": 8, "validation": 6})
    course = train(model, [rows], Settings(epochs=1, batch_size=8, keep="last", precision="fp32"))
    assert course.steps == 1 and not course.skipped and hash_tensors(model.encoder) != before
    model.save(tmp_path / "tuned")
    assert dtypes_in(tmp_path / "tuned") == {torch.float32}
    loaded = load(tmp_path / "tuned")
    assert torch.equal(loaded.outputs(task.name, case.rows).logits, model.outputs(task.name, case.rows).logits)
    assert len(loaded.predict(task.name, case.rows)) == len(case.rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("read", [torch.float16, torch.float32, torch.float64])
def test_a_network_of_ones_own_keeps_its_precision(
    dtype: torch.dtype, read: torch.dtype, digits_suite: Suite, tmp_path: Path
) -> None:
    task = digits_suite.tasks["digit"].limit({"train": 8, "validation": 6})
    rows = task.splits["test"].inputs[:3]
    encoder = Module(
        Net().to(dtype), dim=12, to_tensor=lambda row: torch.full((64,), row[0].getpixel((4, 4)), dtype=read)
    )
    model = MultiTaskModel(encoder, {"digit": task.definition})
    nn.init.normal_(model.heads["digit"].weight)
    assert run(encoder, task.definition, rows).dtype == torch.float32
    assert train(model, [task], Settings(epochs=1, batch_size=8, precision="fp32")).skipped == 0
    model.save(tmp_path / "model")
    assert {t.dtype for t in load_file(tmp_path / "model" / "encoder" / "model.safetensors").values()} == {dtype}
    assert torch.equal(load(tmp_path / "model").outputs("digit", rows).logits, model.outputs("digit", rows).logits)


@pytest.mark.parametrize("name", TUNABLE)
def test_numbers_that_are_no_floats_are_no_weights(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    CASES[name](request).encoder.save(tmp_path)
    file = sorted(tmp_path.rglob("*.safetensors"))[-1]
    tensors = load_file(file)
    first = next(n for n, t in tensors.items() if t.is_floating_point())
    save_file({**tensors, first: tensors[first].to(torch.int8)}, file)
    refused(tmp_path, first.removeprefix("1."))


# Tensors on disk.


def test_tensors_must_match(tmp_path: Path) -> None:
    net = Net()
    save_tensors(net, tmp_path / "a.safetensors")
    other = Net()
    load_tensors(other, tmp_path / "a.safetensors")
    assert hash_tensors(other) == hash_tensors(net)
    for wrong in (nn.Linear(64, 12), nn.Sequential(nn.Linear(3, 3))):
        with pytest.raises(AllroundError, match="are not those of the network"):
            load_tensors(wrong, tmp_path / "a.safetensors")
    small = Net()
    small.layer = nn.Linear(64, 11)
    with pytest.raises(AllroundError, match=r"layer\.(weight|bias)"):
        load_tensors(small, tmp_path / "a.safetensors")


def test_hashes_follow_names_shapes_and_bytes() -> None:
    torch.manual_seed(0)
    one = nn.Linear(2, 3)
    first = hash_tensors(one)
    assert hash_tensors(copy.deepcopy(one)) == first
    one.weight.data[0, 0] += 1e-6
    assert hash_tensors(one) != first


# Text.


def test_a_pair_read_apart_is_two_texts(bert_folder: Path, text_suite: Suite) -> None:
    pair, single = text_suite.tasks["alike"], text_suite.tasks["mood"]
    encoder = load_encoder(bert_folder)
    rows = pair.splits["test"].inputs[:4]
    u = run(encoder, single.definition, [(a,) for a, _ in rows])
    v = run(encoder, single.definition, [(b,) for _, b in rows])
    expected = torch.cat([u, v, (u - v).abs(), u * v], -1)
    assert torch.allclose(run(encoder, pair.definition, rows), expected, atol=1e-4)


def test_a_pair_read_together_is_one_sequence(bert_folder: Path, text_suite: Suite) -> None:
    pair = text_suite.tasks["alike"]
    encoder = load_encoder(bert_folder, pairs="joint")
    rows = pair.splits["test"].inputs[:4]
    batch = encoder.collate(encoder.prepare(rows, pair.definition), pair.definition)
    assert batch.tensors["input_ids"].shape[0] == 4
    assert batch.tensors["token_type_ids"].any(), "the second text is marked"
    ids, types = batch.tensors["input_ids"][0], batch.tensors["token_type_ids"][0]
    separator = encoder.tokenizer.sep_token_id
    assert int((ids == separator).sum()) == 2
    assert types[: int((ids == separator).nonzero()[0]) + 1].sum() == 0
    swapped = run(encoder, pair.definition, [(b, a) for a, b in rows])
    assert not torch.allclose(run(encoder, pair.definition, rows), swapped, atol=1e-3)


def test_the_way_of_pairs_is_saved(bert_folder: Path, tmp_path: Path) -> None:
    load_encoder(bert_folder, pairs="joint", max_length=9).save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert (loaded.pairs, loaded.max_length) == ("joint", 9)
    assert load_encoder(tmp_path, pairs="separate").pairs == "separate", "what is given goes before what is saved"
    with pytest.raises(AllroundError, match="joint, separate"):
        load_encoder(bert_folder, pairs="both")
    with pytest.raises(AllroundError):
        load_encoder(bert_folder, surprise=1)


def test_an_instruction_goes_before_the_text(bert_folder: Path, text_suite: Suite) -> None:
    encoder = load_encoder(bert_folder)
    definition = text_suite.tasks["mood"].definition
    told = replace(definition, instruction="is it warm")
    left = run(encoder, told, [("the cat",)])
    assert torch.equal(left, run(encoder, definition, [("is it warm the cat",)]))


def test_long_texts_are_cut(bert_folder: Path, text_suite: Suite) -> None:
    encoder = load_encoder(bert_folder, max_length=8)
    definition = text_suite.tasks["mood"].definition
    (prepared,) = encoder.prepare([("the cat is warm " * 50,)], definition)
    assert len(prepared["ids"][0]) == 8
    assert load_encoder(bert_folder, max_length=10_000).max_length <= 64, "never past what the network can read"
    assert torch.isfinite(run(load_encoder(bert_folder), definition, [("cat " * 5000,), ("",)])).all()
    assert encoder.cut([("the cat " * 3,), ("the cat is warm " * 2,), ("the " * 7,)], definition) == 2
    names = text_suite.tasks["names"].definition
    assert encoder.cut([(["the"] * 6,), (["the"] * 7,)], names) == 1


def test_texts_are_read_as_far_as_the_base_was_made_for(bert_folder: Path, tmp_path: Path) -> None:
    pair = Definition("p", "classification", ("a", "b"), "text", "accuracy", ("no", "yes"))
    rows: list[tuple[Any, ...]] = [("the cat " * 10, "the owl " * 10), ("the", "the " * 40), ("a", "b")]
    assert load_encoder(bert_folder).max_length == 64, "the tokenizer's own limit"
    assert load_encoder(bert_folder).cut(rows, pair) == 0
    assert load_encoder(bert_folder, max_length=30).cut(rows, pair) == 1
    assert load_encoder(bert_folder, max_length=30, pairs="joint").cut(rows, pair) == 2
    load_encoder(bert_folder, max_length=40).save(tmp_path / "made")
    folder = tmp_path / "made"
    (folder / "allround_encoder.json").unlink()  # what sentence-transformers alone would leave
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**settings, "max_seq_length": 24}))
    assert load_encoder(folder).max_length == 24


def test_words_are_read_at_their_first_piece(bert_folder: Path, text_suite: Suite) -> None:
    definition = text_suite.tasks["names"].definition
    encoder = load_encoder(bert_folder)
    words = ["the", "stale", "cat"]  # "stale" is not in the vocabulary: s ##t ##a ##l ##e
    (prepared,) = encoder.prepare([(words,)], definition)
    assert prepared["words"] == [1, 2, 7]
    features = run(encoder, definition, [(words,)])
    with torch.inference_mode():
        hidden = encoder.backbone(
            input_ids=torch.tensor([prepared["ids"][0]]), attention_mask=torch.ones(1, 9, dtype=torch.long)
        ).last_hidden_state[0]
    assert torch.allclose(features, hidden[[1, 2, 7]], atol=1e-5)


def test_words_that_are_cut_off_are_zeros(bert_folder: Path, text_suite: Suite) -> None:
    definition = text_suite.tasks["names"].definition
    encoder = load_encoder(bert_folder, max_length=6)
    rows: list[tuple[Any, ...]] = [(["the", "cat", "is", "fine", "and", "the", "owl"],), (["the", "owl"],)]
    batch = encoder.collate(encoder.prepare(rows, definition), definition)
    assert batch.lengths == (7, 2), "words that are cut off count"
    features = run(encoder, definition, rows)
    assert features.shape == (9, 32)
    zero = [not row.any() for row in features]
    assert zero == [False] * 4 + [True] * 3 + [False] * 2


def test_odd_words(bert_folder: Path, text_suite: Suite) -> None:
    """A word without pieces, rows without words, and letters that the vocabulary lacks."""
    definition = text_suite.tasks["names"].definition
    encoder = load_encoder(bert_folder)
    rows: list[tuple[Any, ...]] = [(["the", "", "cat"],), ([],), (["\u200b", "名", "🙂", "a" * 300],)]
    batch = encoder.collate(encoder.prepare(rows, definition), definition)
    assert batch.lengths == (3, 0, 4)
    features = run(encoder, definition, rows)
    assert features.shape == (7, 32) and torch.isfinite(features).all()
    assert not features[1].any(), "a word without pieces"
    alone = run(encoder, definition, [([],)])
    assert alone.shape == (0, 32)


def test_more_than_two_texts_are_refused(bert_folder: Path, text_suite: Suite) -> None:
    definition = replace(text_suite.tasks["mood"].definition, inputs=("a", "b", "c"))
    with pytest.raises(AllroundError, match="reads one text, or a pair"):
        load_encoder(bert_folder).prepare([("x", "y", "z")], definition)


def test_a_plain_transformers_folder_gets_mean_pooling(hf_folder: Path, bert_folder: Path, text_suite: Suite) -> None:
    task = text_suite.tasks["mood"]
    rows = task.splits["test"].inputs
    plain, piped = load_encoder(hf_folder), load_encoder(bert_folder)
    assert torch.allclose(run(plain, task.definition, rows), run(piped, task.definition, rows), atol=1e-6)


@pytest.fixture
def copied(bert_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bert_folder, tmp_path / "copy")


def modules(folder: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    value = json.loads((folder / "modules.json").read_text())
    edited = edit(value)
    (folder / "modules.json").write_text(json.dumps(value if edited is None else edited))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(AllroundError) as caught:
        load_encoder(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "type_",
    [
        "os.system",
        "builtins.exec",
        "custom.Module",
        "sentence_transformersx.Evil",
        "",
        None,
        3,
        "evil.sentence_transformers.X",
    ],
)
def test_modules_of_other_packages_are_refused(copied: Path, type_: Any) -> None:
    modules(copied, lambda value: value[1].update(type=type_))
    refused(copied, "not of sentence-transformers", "allround runs no code that comes with a model")


@pytest.mark.parametrize("path", ["../other", "/etc", "1_Pooling/../../x", ".."])
def test_modules_outside_the_folder_are_refused(copied: Path, path: str) -> None:
    modules(copied, lambda value: value[1].update(path=path))
    refused(copied, "points outside the folder", path)


@pytest.mark.parametrize("value", [{}, 3, ["x"], [None], [[]]], ids=str)
def test_a_list_of_modules_that_is_none(copied: Path, value: Any) -> None:
    (copied / "modules.json").write_text(json.dumps(value))
    refused(copied, str(copied))


def test_code_that_comes_with_a_model_is_not_run(copied: Path) -> None:
    (copied / "evil.py").write_text("raise SystemExit('code of a model was run')\n")
    config = json.loads((copied / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    config["model_type"] = "evil"
    (copied / "config.json").write_text(json.dumps(config))
    refused(copied, str(copied))


def test_a_folder_that_is_not_whole(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "elsewhere")
    refused(copied, "no .safetensors file")
    (copied / "elsewhere").rename(copied / "model.safetensors")
    data = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(copied, "cut short")
    (copied / "model.safetensors").write_bytes(data)
    (copied / "config.json").write_text("{")
    refused(copied, str(copied))


def test_a_pickle_in_place_of_the_weights_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")
    refused(copied, "pytorch_model.bin", "can run code")


# Images.


def test_images_of_any_mode_and_size_are_read(small_image: SmallImage, digits_suite: Suite) -> None:
    from PIL import Image

    definition = digits_suite.tasks["digit"].definition
    grey = Image.new("L", (8, 8), 51)
    rows = [(grey,), (grey.convert("RGB"),), (grey.resize((20, 30)),), (grey.convert("RGBA"),)]
    prepared = small_image.prepare(rows, definition)
    for tensor in prepared:
        assert tensor.shape == (1, 8, 8) and tensor.dtype == torch.float32
        assert torch.allclose(tensor, torch.tensor(0.2), atol=0.01)
    assert image_tensor(grey, 16, "RGB").shape == (3, 16, 16)


def test_sixteen_views_differ() -> None:
    image = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    views = _views(image.expand(16, 1, 4, 4), torch.arange(16))
    assert torch.equal(views[0], image[0])
    assert len({tuple(v.flatten().tolist()) for v in views}) == 16


def test_a_vision_folder_loads_in_plain_transformers(vit_folder: Path, digits_suite: Suite, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    task = digits_suite.tasks["digit"]
    rows = task.splits["test"].inputs[:3]
    encoder = load_encoder(vit_folder)
    assert encoder.name == "image"
    encoder.save(tmp_path)
    model, processor = AutoModel.from_pretrained(tmp_path).eval(), AutoImageProcessor.from_pretrained(tmp_path)
    pixels = processor(images=[i.convert("RGB") for (i,) in rows], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(pixel_values=pixels).pooler_output
    assert torch.allclose(run(encoder, task.definition, rows), expected, atol=1e-5)


def _channels(folder: Path, channels: int, **processor: Any) -> Path:
    """A vision transformer for images of so many channels."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                                    image_size=16, patch_size=8, num_channels=channels)  # fmt: skip
    transformers.ViTModel(config).save_pretrained(folder)
    given = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return folder


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_vision_models_read_as_many_channels_as_they_have(
    channels: int, mode: str, digits_suite: Suite, tmp_path: Path
) -> None:
    from PIL import Image

    definition = digits_suite.tasks["digit"].definition
    half = [0.5] * channels
    encoder = load_encoder(_channels(tmp_path / "vit", channels, image_mean=half, image_std=half))
    rows = [(Image.new("RGB", (16, 16), (255, 51, 0)),), (Image.new("L", (4, 6), 51),)]
    colour, grey = encoder.prepare(rows, definition)
    assert colour.shape == grey.shape == (channels, 16, 16)
    expected = torch.tensor(rows[0][0].convert(mode).getpixel((0, 0))).reshape(-1) / 127.5 - 1
    assert torch.allclose(colour[:, 3, 3], expected, atol=1e-6)
    assert run(encoder, definition, rows).shape == (2, 16)


@pytest.mark.parametrize(
    ("channels", "processor", "words"),
    [
        (1, {}, "reads images of 1 channel, and its image processor "),
        (1, {"do_convert_rgb": True}, "reads images of 1 channel, and its image processor "),
        (3, {"image_mean": [0.5], "image_std": [0.5]}, "reads images of 3 channels, and its image processor "),
        (5, {}, "its network reads 5 channels"),
    ],
)
def test_a_processor_that_does_not_fit_its_vision_model(
    channels: int, processor: dict[str, Any], words: str, digits_suite: Suite, tmp_path: Path
) -> None:
    task = digits_suite.tasks["digit"]
    with pytest.raises(AllroundError) as caught:
        load_encoder(_channels(tmp_path / "vit", channels, **processor)).prepare(
            task.splits["test"].inputs[:2], task.definition
        )
    assert words in caught.value.found and caught.value.do


def test_code_that_comes_with_a_vision_model_is_not_run(vit_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vit_folder, tmp_path / "copy")
    (folder / "evil.py").write_text("raise SystemExit('code of a model was run')\n")
    config = json.loads((folder / "config.json").read_text())
    config.update(auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, model_type="evil")
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, str(folder))


# Tables.


def test_table_columns_in_another_order_are_the_same(small_table: SmallTable, table_suite: Suite) -> None:
    task = table_suite.tasks["species"]
    rows = task.splits["test"].inputs[:5]
    turned = replace(task.definition, inputs=task.definition.inputs[::-1])
    assert torch.equal(run(small_table, task.definition, rows), run(small_table, turned, [row[::-1] for row in rows]))


def test_other_columns_are_refused(small_table: SmallTable, table_suite: Suite) -> None:
    task = table_suite.tasks["species"]
    for inputs in (task.definition.inputs[:3], (*task.definition.inputs, "more"), ("a", "b", "c", "d")):
        definition = replace(task.definition, inputs=inputs)
        with pytest.raises(AllroundError, match="the encoder was made for 4 columns"):
            small_table.prepare([tuple(1.0 for _ in inputs)], definition)


def test_numbers_are_standardised_and_missing_ones_flagged(table_suite: Suite) -> None:
    columns = [{"name": "x", "mean": 2.0, "scale": 4.0}, {"name": "c", "categories": ["a", "b"]}]
    encoder = SmallTable(columns=columns, width=4)
    definition = replace(table_suite.tasks["species"].definition, inputs=("x", "c"))
    rows = [(10.0, "b"), (None, "z"), (float("nan"), None), (2, "a")]
    found = [p.tolist() for p in encoder.prepare(rows, definition)]
    assert found == [[2, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_numbers_are_cut_at_quantiles_of_the_training_rows(table_suite: Suite) -> None:
    column = column_for("x", [0.0, 1.0, 2.0, 4.0, 8.0, None])
    assert column["edges"] == [0.0, 1.0, 2.0, 4.0, 8.0] and column["mean"] == 3.0
    many = column_for("x", [number**2 for number in range(161)])
    assert np.allclose(many["edges"], [(10 * number) ** 2 for number in range(17)])
    column = {"name": "x", "mean": 3.0, "scale": 2.0, "edges": [0.0, 2.0, 6.0]}
    day = column_for("d", ["2024-02-01", None, "2024-02-03"])
    assert [len(part["edges"]) for part in day["parts"]] == [2, 1, 1, 2, 2, 1], "year, month and hour are the same"
    encoder = SmallTable(columns=[column, day], width=4)
    definition = replace(table_suite.tasks["species"].definition, inputs=("x", "d"))
    found = torch.stack(encoder.prepare([(5.0, "2024-02-03"), (None, "soon"), (99.0, "2024-02-02")], definition))
    assert found.shape == (3, encoder.inputs)
    # The number standardised, the shares of [0, 2] and [2, 6] that lie below it less a half, whether it is missing.
    assert found[:, :4].tolist() == [[1.0, 0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0], [10.0, 0.5, 0.5, 0.0]]
    # Days: standardised, one stretch; the mark of what is missing is the last.
    assert found[0, 4:6].tolist() == [1.0, 0.5] and found[2, 4:6].tolist() == [0.0, 0.0]
    assert found[:, -1].tolist() == [0.0, 1.0, 0.0] and not found[1, 4:-1].any()


def test_frequent_numbers_leave_the_stretches_to_the_others() -> None:
    """Quantiles of all rows would give zeros 15 of 17 edges, and leave two stretches to the other numbers."""
    zeros, others = [0.0] * 900, [float(number) for number in range(100, 200)]
    edges = column_for("gains", zeros + others)["edges"]
    assert np.allclose(edges, [0, *np.linspace(100, 199, 16)]), "zero, and fifteen stretches of the others"
    two = column_for("x", [*zeros, *[50.0] * 900, *others, 300.0], stretches=4)["edges"]
    assert two == [0, 50, 100, 150, 300], "the median of the 101 others is 150"
    assert column_for("x", [0.0] * 9 + [1.0, 2.0, 3.0], stretches=1)["edges"] == [0, 3]


def test_a_table_encoder_of_an_earlier_version_answers_as_it_did(table_suite: Suite, tmp_path: Path) -> None:
    """The features were computed by the version before numbers were cut into stretches."""
    columns = [{"name": "a", "mean": 1.0, "scale": 2.0}, {"name": "c", "categories": ["x", "y"]}]
    encoder = SmallTable(columns=columns, width=4)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(torch.linspace(-1, 1, weight.numel()).reshape(weight.shape))
    encoder.save(tmp_path)
    settings = json.loads((tmp_path / "allround_encoder.json").read_text())
    assert settings == {"encoder": "small_table", "settings": {"columns": columns, "width": 4}}
    definition = replace(table_suite.tasks["species"].definition, inputs=("a", "c"))
    loaded = load_encoder(tmp_path)
    found = run(loaded, definition, [(3.0, "y"), (None, "z"), (41.0, "x")])
    hidden = [0.0, 0.0, 1.6097, 3.9647]
    expected = [[*hidden, 1.0, 0.0, 0.0, 1.0], [*hidden, 0.0, 1.0, 0.0, 0.0], [*hidden, 20.0, 0.0, 1.0, 0.0]]
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-4)


def test_hidden_numbers_are_left_out_in_training_alone(small_table: SmallTable, table_suite: Suite) -> None:
    task = table_suite.tasks["species"]
    encoder = SmallTable(columns=small_table.columns, width=16, dropout=0.5)
    encoder.load_state_dict(small_table.state_dict())
    rows = torch.stack(encoder.prepare(task.splits["test"].inputs, task.definition))
    torch.manual_seed(0)
    assert not torch.equal(encoder.train().hidden(rows), small_table.hidden(rows))
    assert torch.equal(encoder.eval().hidden(rows), small_table.hidden(rows))


# A network of the user's own.


def test_a_network_of_ones_own_needs_its_code_to_load(digits_suite: Suite, tmp_path: Path) -> None:
    task = digits_suite.tasks["digit"]
    torch.manual_seed(0)
    model = MultiTaskModel(Module(Net(), dim=12), {"digit": task.definition}).eval()
    nn.init.normal_(model.heads["digit"].weight)
    expected = model.outputs("digit", task.splits["test"].inputs).logits
    model.save(tmp_path / "model")
    kept = dict(_given)
    try:
        _given.clear()
        with pytest.raises(AllroundError) as caught:
            load(tmp_path / "model")
        assert "a saved model holds no code" in caught.value.found
        loaded = load(tmp_path / "model", module=Net())
        assert torch.equal(loaded.outputs("digit", task.splits["test"].inputs).logits, expected)
        loaded.save(tmp_path / "again")
    finally:
        _given.clear()
        _given.update(kept)


class Layers(nn.Module):
    """A class whose networks differ in size and in what they compute."""

    def __init__(self, width: int, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__()
        self.one = nn.Linear(64, width)
        self.activation = activation()
        self.two = nn.Linear(width, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.two(self.activation(self.one(x.flatten(1))))
        return found


def test_networks_of_one_class_do_not_take_each_others_place(digits_suite: Suite, tmp_path: Path) -> None:
    """Two sizes, two activations, two ways to read rows: each saved encoder loads as itself, whatever came later."""
    task = digits_suite.tasks["digit"]
    rows = task.splits["test"].inputs[:5]

    def dark(row: tuple[Any, ...]) -> torch.Tensor:
        return torch.tensor(list(row[0].tobytes())).float() / 100

    torch.manual_seed(0)
    made = {
        "small": Module(Layers(8), dim=12),
        "large": Module(Layers(16), dim=12),
        "other": Module(Layers(8, nn.ReLU), dim=12),
        "dark": Module(Layers(8), dim=12, to_tensor=dark),
    }
    for name, encoder in made.items():
        (tmp_path / name).mkdir()
        encoder.save(tmp_path / name)
    for name, encoder in made.items():
        assert torch.equal(run(load_encoder(tmp_path / name), task.definition, rows),
                           run(encoder, task.definition, rows)), name  # fmt: skip
    kept = dict(_given)
    try:
        _given.clear()
        give(Layers(16))
        assert torch.equal(run(load_encoder(tmp_path / "large"), task.definition, rows),
                           run(made["large"], task.definition, rows))  # fmt: skip
        with pytest.raises(AllroundError, match="its tensors are not those of the network"):
            load_encoder(tmp_path / "small")
    finally:
        _given.clear()
        _given.update(kept)


def test_a_given_network_stays_as_it_was(tmp_path: Path) -> None:
    network = Net()
    before = hash_tensors(network)
    Module(Net(), dim=12).save(tmp_path)
    give(network)
    load_encoder(tmp_path)
    assert hash_tensors(network) == before


def test_texts_need_a_way_to_numbers(text_suite: Suite) -> None:
    definition = text_suite.tasks["mood"].definition
    with pytest.raises(AllroundError, match="give to_tensor="):
        Module(Net(), dim=12).prepare([("x",)], definition)
    encoder = Module(Net(), dim=12, to_tensor=lambda row: torch.full((64,), float(len(row[0]))))
    assert run(encoder, definition, [("a",), ("abc",)]).shape == (2, 12)


def test_images_and_tables_become_tensors(digits_suite: Suite, table_suite: Suite) -> None:
    from PIL import Image

    encoder = Module(Net(), dim=12)
    definition = digits_suite.tasks["digit"].definition
    grey, colour = encoder.prepare([(Image.new("L", (4, 6), 255),), (Image.new("RGB", (4, 6)),)], definition)
    assert grey.shape == (1, 6, 4) and torch.equal(grey, torch.ones(1, 6, 4))
    assert colour.shape == (3, 6, 4)
    table = replace(table_suite.tasks["species"].definition, inputs=("a", "b"))
    assert encoder.prepare([(1, 2.5)], table)[0].tolist() == [1.0, 2.5]


def test_a_batch_is_plain_data() -> None:
    batch = Batch({"x": torch.zeros(2)}, 2)
    assert batch.lengths == ()
