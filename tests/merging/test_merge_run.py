"""Merging folders: the right numbers, the base's dtypes and layout, and errors in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from allround.checkpoints.weights import Weights
from allround.core import registry
from allround.core.errors import AllroundError
from allround.merging import blocks as blocks_module
from allround.merging.layout import check_alike, make_plan
from allround.merging.recipe import Model, Recipe
from allround.merging.run import merge_folders, run_plan

BASE = {
    "w": torch.tensor([[1.0, 2.0], [-1.0, 0.5]]),
    "same": torch.tensor([0.1, 1e-30, -0.0]),
    "steps": torch.tensor([3, 4]),
    "mask": torch.tensor([True, False]),
    "scale": torch.tensor(2.0),
    "none": torch.empty(0, 4),
    "half": torch.tensor([1.0, -3.0]).half(),
    "brain": torch.tensor([1.0, 256.0]).bfloat16(),
    "double": torch.tensor([1.0, 1 + 2.0**-40], dtype=torch.float64),
}
FIRST = {
    **BASE,
    "w": torch.tensor([[2.0, 2.0], [-1.0, 1.5]]),
    "steps": torch.tensor([9, 9]),
    "mask": torch.tensor([False, False]),
    "scale": torch.tensor(3.0),
    "half": torch.tensor([1.5, -3.0]).half(),
    "brain": torch.tensor([1.0, 258.0]).bfloat16(),
    "double": torch.tensor([1.0, 1 + 2.0**-38], dtype=torch.float64),
}
SECOND = {**BASE, "w": torch.tensor([[1.0, 4.0], [-2.0, 0.5]]), "scale": torch.tensor(4.0)}


def folder(path: Path, tensors: dict[str, Tensor], **files: str) -> Path:
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    for name, text in files.items():
        target = path / name.replace("__", "/").replace("_json", ".json")
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    return path


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, Path, Path]:
    return (
        folder(tmp_path / "base", BASE, config_json="{}", tokenizer_json='{"a": 1}', sub__config_json="[]"),
        folder(tmp_path / "first", FIRST, config_json='{"other": 1}'),
        folder(tmp_path / "second", SECOND),
    )


def merge(base: Path, *tuned: Path, method: str = "average", out: str = "out", **parameters: float) -> Path:
    target = base.parent / out
    target.mkdir()
    merge_folders(base, list(tuned), target, method=method, parameters=parameters)
    return target


def refused(base: Path, *tuned: Path, words: tuple[str, ...], method: str = "average") -> AllroundError:
    with pytest.raises(AllroundError) as caught:
        merge(base, *tuned, method=method, out=f"refused{len(list(base.parent.iterdir()))}")
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_average_by_hand(three: tuple[Path, Path, Path]) -> None:
    merged = load_file(merge(*three) / "model.safetensors")
    assert merged["w"].tolist() == [[1.5, 3.0], [-1.5, 1.0]]
    assert merged["scale"].item() == 3.5
    assert merged["half"].tolist() == [1.25, -3.0]
    assert merged["brain"].tolist() == [1.0, 256.0], "257 lies between two bfloat16 numbers, and rounds to even"
    assert merged["double"].tolist() == [1.0, 1 + 2.5 * 2.0**-40], "float32 has no such numbers"


def test_task_arithmetic_by_hand(three: tuple[Path, Path, Path]) -> None:
    merged = load_file(merge(*three, method="task_arithmetic", scale=0.5) / "model.safetensors")
    assert merged["w"].tolist() == [[1.5, 3.0], [-1.5, 1.0]]
    merged = load_file(merge(*three, method="task_arithmetic", out="out2", scale=1.0) / "model.safetensors")
    assert merged["w"].tolist() == [[2.0, 4.0], [-2.0, 1.5]]


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties"])
def test_dtypes_shapes_and_what_nobody_changed(three: tuple[Path, Path, Path], method: str) -> None:
    merged = load_file(merge(*three, method=method) / "model.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in merged.items()} == {n: (t.dtype, t.shape) for n, t in BASE.items()}
    for name in ("same", "steps", "mask", "none"):
        assert bits(merged[name]) == bits(BASE[name]), name


def test_one_specialist_equal_to_the_base_changes_no_bit(tmp_path: Path) -> None:
    tensors = {
        "weird": torch.tensor([float("inf"), -float("inf"), float("nan"), -0.0, 1e-45]),
        "half": torch.tensor([6e-8, 65504.0]).half(),
    }
    base, same = folder(tmp_path / "base", tensors), folder(tmp_path / "same", tensors)
    merged = load_file(merge(base, same, same) / "model.safetensors")
    for name, tensor in tensors.items():
        assert bits(merged[name]) == bits(tensor), name


def test_files_come_from_the_base_and_the_recipe_is_kept(three: tuple[Path, Path, Path]) -> None:
    target = three[0].parent / "out"
    target.mkdir()
    recipe = merge_folders(three[0], three[1:], target, method="ties", parameters={"keep": 0.5})
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert found == ["config.json", "merge.json", "model.safetensors", "sub/config.json", "tokenizer.json"]
    assert (target / "config.json").read_text() == "{}"
    assert json.loads((target / "merge.json").read_text()) == recipe
    assert recipe["method"] == "ties" and recipe["parameters"] == {
        "keep": 0.5, "scale": 1.0, "weights": 1.0, "normalize": True
    }  # fmt: skip
    assert recipe["inputs"]["base"]["path"] == str(three[0])
    assert [m["path"] for m in recipe["inputs"]["models"]] == [str(t) for t in three[1:]]
    contents = {m["content"] for m in [recipe["inputs"]["base"], *recipe["inputs"]["models"]]}
    assert len(contents) == 3, "each by what was read of it"


def test_weights_of_the_base_in_other_formats_stay_behind(three: tuple[Path, Path, Path]) -> None:
    """They are not merged: a library that prefers them would load the base."""
    for name in ("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "model.onnx", "flax_model.msgpack"):
        (three[0] / name).write_bytes(b"weights of the base")
    found = {p.suffix for p in merge(*three).rglob("*") if p.is_file()}
    assert found == {".json", ".safetensors"}


def test_the_same_bytes_twice(three: tuple[Path, Path, Path]) -> None:
    one, two = merge(*three, method="ties"), merge(*three, method="ties", out="again")
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_the_layout_of_a_sharded_base_is_kept(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "2_Dense").mkdir(parents=True)
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    save_file({"a": torch.zeros(2)}, base / shards[0])
    save_file({"b": torch.ones(2)}, base / shards[1])
    save_file({"b": torch.ones(3)}, base / "2_Dense" / "model.safetensors")
    index = json.dumps({"metadata": {"total_size": 16}, "weight_map": {"a": shards[0], "b": shards[1]}})
    (base / "model.safetensors.index.json").write_text(index)
    tuned = folder(tmp_path / "tuned", {"a": torch.ones(2), "b": torch.ones(2)})
    (tuned / "2_Dense").mkdir()
    save_file({"b": torch.full((3,), 3.0)}, tuned / "2_Dense" / "model.safetensors")
    out = merge(base, tuned)
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert found == ["2_Dense/model.safetensors", "merge.json", *shards, "model.safetensors.index.json"]
    assert load_file(out / shards[0])["a"].tolist() == [1, 1]
    assert load_file(out / shards[1])["b"].tolist() == [1, 1]
    assert load_file(out / "2_Dense" / "model.safetensors")["b"].tolist() == [3, 3, 3]


@pytest.mark.slow
def test_a_base_sharded_under_names_of_its_own_keeps_its_index(bert_folder: Path, tmp_path: Path) -> None:
    """And loads: transformers finds such files through the index alone."""
    from transformers import AutoModel

    weights = load_file(bert_folder / "model.safetensors")
    base, tuned, out = tmp_path / "base", tmp_path / "tuned", tmp_path / "out"
    for path, change in ((base, 0.0), (tuned, 0.25)):
        shutil.copytree(bert_folder, path, ignore=shutil.ignore_patterns("model.safetensors"))
        names = {name: "ab"[number % 2] + ".safetensors" for number, name in enumerate(weights)}
        for file in ("a.safetensors", "b.safetensors"):
            own = {n: t + change if t.is_floating_point() else t for n, t in weights.items() if names[n] == file}
            save_file(own, path / file, {"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": names}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "book.index.json").write_text("{}")
    out.mkdir()
    merge_folders(base, [tuned], out, method="average")
    found = json.loads((out / "model.safetensors.index.json").read_text())
    assert found["weight_map"] == names
    assert found["metadata"] == {"total_size": sum(t.numel() * t.element_size() for t in weights.values())}
    assert (out / "book.index.json").is_file(), "no index of weights"
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    loaded = model.state_dict()
    assert all(torch.allclose(loaded[n], t + 0.25) for n, t in weights.items() if t.is_floating_point())


@pytest.mark.parametrize(
    ("files", "index", "written"),
    [
        (("x.safetensors", "y.safetensors"), "model.safetensors.index.fp16.json", "model.safetensors.index.fp16.json"),
        (("x.safetensors", "y.safetensors"), "sub/own.safetensors.index.json", "sub/own.safetensors.index.json"),
        (("m-1-of-2.safetensors", "m-2-of-2.safetensors"), None, "m.safetensors.index.json"),
        (("x.safetensors", "y.safetensors"), None, None),
    ],
)
def test_an_index_lists_the_output(
    files: tuple[str, str], index: str | None, written: str | None, tmp_path: Path
) -> None:
    for path in (tmp_path / "base", tmp_path / "tuned"):
        place = (path / (index or "")).parent if index else path
        place.mkdir(parents=True)
        for number, file in enumerate(files):
            save_file({"ab"[number]: torch.zeros(2)}, place / file)
        if index:
            listed = {"weight_map": dict(zip("ab", files, strict=True))}
            (path / index).write_text(json.dumps(listed))
    out = merge(tmp_path / "base", tmp_path / "tuned")
    found = [p.relative_to(out).as_posix() for p in out.rglob("*.index*")]
    assert found == ([written] if written else [])
    if written:
        value = json.loads((out / written).read_text())
        assert value == {"metadata": {"total_size": 16}, "weight_map": dict(zip("ab", files, strict=True))}
    assert sorted(Weights(out)) == sorted(Weights(tmp_path / "base")), "no index says what is not so"


def test_single_files_merge_too(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    files = [f / "model.safetensors" for f in three]
    merge_folders(files[0], files[1:], target, method="average")
    assert sorted(p.name for p in target.iterdir()) == ["merge.json", "model.safetensors"]
    assert load_file(target / "model.safetensors")["scale"].item() == 3.5


def test_no_specialist(three: tuple[Path, Path, Path]) -> None:
    refused(three[0], words=("no specialist was given",))


def test_shapes_that_differ(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = folder(tmp_path / "other", {**BASE, "w": torch.zeros(2, 3), "scale": torch.zeros(1)})
    error = refused(three[0], three[1], other, words=("2 tensors differ in shape", "in the base"))
    assert str(other) in error.asked and str(three[0]) in error.asked


def test_tensors_missing_and_extra(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    less = {n: t for n, t in BASE.items() if n not in ("w", "scale")}
    refused(three[0], folder(tmp_path / "less", less), words=("2 tensors of the base are missing (", "w", "scale"))
    more = {**BASE, "head.weight": torch.zeros(2)}
    refused(three[0], folder(tmp_path / "more", more), words=("1 tensor is not in the base (head.weight)",))
    both = {**less, "head.weight": torch.zeros(2)}
    refused(three[0], folder(tmp_path / "both", both), words=("2 tensors of the base are missing", "; 1 tensor is not"))


def test_integers_may_be_missing_or_extra(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Position numbers and counters come and go between versions of a library."""
    other = {n: t for n, t in FIRST.items() if n not in ("steps", "mask")}
    tuned = folder(tmp_path / "tuned", {**other, "position_ids": torch.arange(4)})
    merged = load_file(merge(three[0], tuned) / "model.safetensors")
    assert merged["steps"].tolist() == [3, 4] and "position_ids" not in merged


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_specialist_that_is_not_finite(three: tuple[Path, Path, Path], tmp_path: Path, value: float) -> None:
    broken = folder(tmp_path / "broken", {**SECOND, "w": torch.tensor([[1.0, value], [0.0, 0.0]])})
    refused(three[0], three[1], broken, words=("'w'", str(broken), "NaN or infinity", "leave that specialist out"))


def test_a_base_that_is_not_finite(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base = folder(tmp_path / "broken", {**BASE, "w": torch.tensor([[1.0, float("nan")], [0.0, 0.0]])})
    with pytest.raises(AllroundError, match=f"the base {base} holds NaN or infinity in"):
        merge(base, three[1])


def test_a_sum_too_large_for_the_dtype(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", {"w": torch.tensor([40000.0]).half()})
    tuned = folder(tmp_path / "tuned", {"w": torch.tensor([60000.0]).half()})
    with pytest.raises(AllroundError, match="too large for"):
        merge(base, tuned, tuned, method="task_arithmetic", scale=1.0)


def test_an_unknown_method_or_parameter(three: tuple[Path, Path, Path]) -> None:
    refused(*three, method="tiess", words=("did you mean 'ties'",))
    target = three[0].parent / "refused2"
    target.mkdir()
    with pytest.raises(AllroundError, match="no parameter 'scal'"):
        merge_folders(three[0], three[1:], target, method="ties", parameters={"scal": 1.0})
    assert list(target.iterdir()) == [], "nothing is written before all is checked"


def test_headers_are_enough_to_check(three: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "read", None)
    check_alike(Weights(three[0]), [Weights(t) for t in three[1:]])


def test_a_method_that_gives_a_wrong_shape_is_caught(
    three: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.find("merge", "average")

    class Wrong:
        def __getattr__(self, name: str) -> object:
            return getattr(entry, name)

        def load(self) -> object:
            return lambda base, deltas, **_: deltas

    monkeypatch.setattr(registry, "find", lambda family, name: Wrong())
    refused(*three, words=("this is a defect of the method that made it",))


@pytest.mark.slow
def test_merged_sentence_transformers_load_everywhere(bert_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    from allround.models.base import load_encoder
    from allround.tasks.definition import Definition

    specialists = []
    for number in range(2):
        tuned = tmp_path / f"tuned{number}"
        shutil.copytree(bert_folder, tuned)
        weights = load_file(tuned / "model.safetensors")
        generator = torch.Generator().manual_seed(number)
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                weights[name] = tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        save_file(weights, tuned / "model.safetensors", {"format": "pt"})
        specialists.append(tuned)
    out = tmp_path / "out"
    out.mkdir()
    merge_folders(bert_folder, specialists, out, method="average")

    both = [load_file(s / "model.safetensors") for s in specialists]
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.allclose(tensor, (both[0][name] + both[1][name]) / 2, atol=1e-6), name

    texts = ["the cat is warm", "the dog is cold and ada was at the market"]
    pipeline = SentenceTransformer(str(out), device="cpu", local_files_only=True)
    embedded = pipeline.encode(texts, convert_to_tensor=True)
    assert torch.isfinite(embedded).all() and embedded.shape == (2, 32)
    model, tokenizer = AutoModel.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    coded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**coded).last_hidden_state
    mask = coded["attention_mask"][:, :, None]
    assert torch.allclose((hidden * mask).sum(1) / mask.sum(1), embedded, atol=1e-5)
    encoder = load_encoder(out)
    definition = Definition("t", "classification", ("text",), "text", "accuracy", ("a", "b"))
    batch = encoder.batch(encoder.prepare([(t,) for t in texts], definition), definition)
    with torch.inference_mode():
        features = encoder(batch).values
    assert torch.allclose(features, embedded * 32**0.5, atol=1e-4)


@pytest.mark.slow
def test_a_merge_on_a_plain_base_reads_inputs_as_the_models_did(hf_folder: Path, tmp_path: Path) -> None:
    from allround.merging.preflight import compare_files
    from allround.models.base import load_encoder

    tuned = [tmp_path / "one", tmp_path / "two"]
    for path in tuned:
        path.mkdir()
        load_encoder(hf_folder, max_length=7, pairs="joint").save(path)
    plan = make_plan(Recipe("average", tuple(Model(str(t)) for t in tuned), Model(str(hf_folder))))
    assert compare_files(plan) == []
    (tmp_path / "out").mkdir()
    run_plan(plan, tmp_path / "out")
    merged = load_encoder(tmp_path / "out")
    assert (merged.max_length, merged.pairs) == (7, "joint")

    # Where they do not agree, nothing is chosen for the user, and it is said.
    for number, change in enumerate(({"max_length": 8, "pairs": "joint"}, None)):
        said = tuned[1] / "allround_encoder.json"
        said.write_text(json.dumps({"encoder": "text", "settings": change})) if change else said.unlink()
        (note,) = compare_files(plan)
        assert "do not say the same in allround_encoder.json" in note
        (tmp_path / f"out{number}").mkdir()
        run_plan(plan, tmp_path / f"out{number}")
        assert not (tmp_path / f"out{number}" / "allround_encoder.json").exists()

    # A base of allround's says it itself.
    base = tmp_path / "base"
    base.mkdir()
    load_encoder(hf_folder, max_length=9).save(base)
    plan = make_plan(Recipe("average", (Model(str(tuned[0])),), Model(str(base))))
    (note,) = compare_files(plan)
    assert "its allround_encoder.json differs; that of" in note
    (tmp_path / "third").mkdir()
    run_plan(plan, tmp_path / "third")
    assert load_encoder(tmp_path / "third").max_length == 9


def test_thresholds_of_the_whole_model(tmp_path: Path) -> None:
    """keep 1/4 of eight numbers in two tensors: the two largest of the model, both in one tensor, by hand."""
    base = {"a": torch.zeros(4), "b": torch.zeros(2, 2)}
    tuned = {"a": torch.tensor([9.0, 8.0, 3.0, 1.0]), "b": torch.tensor([[4.0, 5.0], [6.0, 7.0]])}
    folders = folder(tmp_path / "base", base), folder(tmp_path / "tuned", tuned)
    recipe = Recipe("ties", (Model(str(folders[1])),), Model(str(folders[0])), {"keep": 0.25}, scope="model")
    for threads in (1, 2):
        (tmp_path / f"out{threads}").mkdir()
        run_plan(make_plan(recipe), tmp_path / f"out{threads}", workers=threads)
        merged = load_file(tmp_path / f"out{threads}" / "model.safetensors")
        assert merged["a"].tolist() == [9.0, 8.0, 0.0, 0.0]
        assert merged["b"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        (e.name, scope)
        for e in registry.entries("merge")
        if e.facts.get("models", (1, 0))[0] <= 3 and e.facts.get("models", (1, 9))[1] in (None, 9) and not e.needs
        for scope in (("tensor", "model") if e.facts["whole"] else ("tensor",))
    ],
)
def test_the_same_bytes_with_any_number_of_threads_and_blocks_that_equal_the_whole(
    method: str, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=draw) for n, s in {"w": (40, 30), "v": (50,), "x": (3, 4, 5)}.items()}
    folders = [folder(tmp_path / "base", base)]
    for number in range(3):
        tuned = {n: t + 0.1 * torch.randn(t.shape, generator=draw) for n, t in base.items()}
        folders.append(folder(tmp_path / f"tuned{number}", tuned))
    recipe = Recipe(method, tuple(Model(str(f)) for f in folders[1:]), Model(str(folders[0])), scope=scope)
    found = {}
    for length in (64, 1 << 18):
        monkeypatch.setattr(blocks_module, "block_length", lambda models, device, length=length: length)
        for threads in (1, 3):
            out = tmp_path / f"out{length}-{threads}"
            out.mkdir()
            run_plan(make_plan(recipe), out, workers=threads)
            found[length, threads] = (out / "model.safetensors").read_bytes()
        assert found[length, 1] == found[length, 3]
    whole, blocks = (load_file(tmp_path / f"out{length}-1" / "model.safetensors") for length in (1 << 18, 64))
    for name in base:
        assert torch.allclose(whole[name], blocks[name], rtol=1e-5, atol=1e-6), name


def test_tokens_with_other_numbers_are_an_error_or_left_alone(tmp_path: Path) -> None:
    """The shapes agree, and yet the rows mean other words: the silent way to a garbled model."""

    def tokenizer(*words: str) -> str:
        return json.dumps({"model": {"vocab": {word: n for n, word in enumerate(words)}}, "added_tokens": []})

    tensors = {"embed_tokens.weight": torch.zeros(3, 2), "w": torch.zeros(2)}
    base = folder(tmp_path / "base", tensors, tokenizer_json=tokenizer("a", "b", "c"))
    ones = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    other = folder(tmp_path / "other", ones, tokenizer_json=tokenizer("a", "c", "b"))
    same = folder(tmp_path / "same", ones, tokenizer_json=tokenizer("a", "b", "c"))
    refused(base, same, other, words=("2 tokens have other numbers", "vocabularies differ", "tokenizer: union"))
    models = (Model(str(same)), Model(str(other)))
    for choice, expected in {"keep-base": 0.0, "skip": 1.0}.items():
        (tmp_path / choice).mkdir()
        plan = make_plan(Recipe("average", models, Model(str(base)), on_mismatch=choice))
        run_plan(plan, tmp_path / choice)
        merged = load_file(tmp_path / choice / "model.safetensors")
        assert merged["embed_tokens.weight"].unique().tolist() == [expected]
        assert merged["w"].tolist() == [1.0, 1.0] and "other numbers" in plan.notes[0]


@pytest.mark.slow
def test_merged_image_models_load_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16,
                       patch_size=8, num_labels=3, id2label={0: "cat", 1: "dog", 2: "owl"})  # fmt: skip
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    folders = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(config).eval()
        for number in range(3):
            folders.append(tmp_path / f"model{number}")
            model.save_pretrained(folders[-1])
            (folders[-1] / "preprocessor_config.json").write_text(json.dumps(processor))
            for parameter in model.parameters():
                parameter.data += 0.02 * torch.randn(parameter.shape)
    out = tmp_path / "out"
    out.mkdir()
    merge_folders(folders[0], folders[1:], out, method="average")
    loaded, info = AutoModelForImageClassification.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and loaded.config.id2label[2] == "owl"
    assert AutoImageProcessor.from_pretrained(out, use_fast=False).size == {"height": 16, "width": 16}
    both = [ViTForImageClassification.from_pretrained(f).state_dict() for f in folders[1:]]
    for name, tensor in loaded.state_dict().items():
        assert torch.allclose(tensor, (both[0][name] + both[1][name]) / 2, atol=1e-6), name
    with torch.inference_mode():
        assert torch.isfinite(loaded(torch.zeros(1, 3, 16, 16)).logits).all()


def test_entries_that_are_infinite_in_all_models_stay_and_the_others_are_merged(tmp_path: Path) -> None:
    """Attention masks are kept beside weights; a threshold or a norm must not be spoilt by them."""
    low = -float("inf")
    base = folder(tmp_path / "base", {"w": torch.tensor([0.0, low, 0.0, float("nan"), 0.0])})
    tuned = folder(tmp_path / "tuned", {"w": torch.tensor([4.0, low, 2.0, float("nan"), 1.0])})
    merged = load_file(merge(base, tuned, method="ties", keep=0.4) / "model.safetensors")["w"]
    assert merged.tolist()[:3] == [4.0, low, 2.0] and torch.isnan(merged[3]) and merged[4] == 0
    other = folder(tmp_path / "other", {"w": torch.tensor([4.0, 0.0, 2.0, float("nan"), 1.0])})
    with pytest.raises(AllroundError, match="NaN or infinity"):
        merge(base, other, out="out2")
