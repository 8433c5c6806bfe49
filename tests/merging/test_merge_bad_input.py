"""What may be wrong with checkpoints and folders: an error in words, or just what is documented; inputs stay whole."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.core.files import MANIFEST
from allround.core.locks import LOCK

HEAD = {"config.json": "{}"}
TIED = {"config.json": '{"tie_word_embeddings": true}'}


def cli(*words: Any) -> str:
    """Run a command in this process and give what it printed; an AllroundError comes through."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def model(folder: Path, tensors: dict[str, Tensor], files: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return folder


def weights(seed: int, **more: Tensor) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(4, 3, generator=draw), "b.weight": torch.randn(5, generator=draw), **more}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [model(tmp_path / "in" / name, weights(seed)) for seed, name in enumerate(("base", "one", "two"))]


def merged(models: list[Path], out: Path, *more: Any, method: str = "average") -> dict[str, Tensor]:
    cli("merge", *models, "-m", method, "-o", out, *more)
    return load_file(out / "model.safetensors")


def notes(out: Path) -> list[str]:
    return json.loads((out / "merge.json").read_text()).get("notes", [])


def refused(models: list[Path], out: Path, *words: str, more: tuple[Any, ...] = (), method: str = "average") -> str:
    """The error; all words are in it, the inputs are as they were, and nothing lies at or beside `out`."""
    folders = [m for m in models if Path(m).is_dir()]
    before = [content(m) for m in folders]
    with pytest.raises(AllroundError) as caught:
        cli("merge", *models, "-m", method, "-o", out, *more)
    assert caught.value.asked and caught.value.found and caught.value.do
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert [content(m) for m in folders] == before
    if out.parent not in folders and out not in folders:
        assert not os.path.lexists(out / "merge.json") and not os.path.lexists(out.parent / f".{out.name}.partial")
    return str(caught.value)


# Files that are broken


def test_a_shard_that_is_cut_short(three: list[Path], tmp_path: Path) -> None:
    file = three[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(three, tmp_path / "out", str(file), "broken or cut short", "copy or download it again")


@pytest.mark.parametrize("place", [0, 7, 8, 30])
def test_a_header_that_is_damaged(three: list[Path], tmp_path: Path, place: int) -> None:
    file = three[2] / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[place] ^= 0x80
    file.write_bytes(data)
    refused(three, tmp_path / "out", str(file), "broken or cut short")


def test_tensors_that_overlap(three: list[Path], tmp_path: Path) -> None:
    place = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"a.weight": place, "b.weight": {**place, "data_offsets": [4, 12]}}).encode()
    (three[1] / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    refused(three, tmp_path / "out", "'b.weight' begins at byte 4, and the tensor before it ends at 8")


def sharded(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    listed = {}
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        listed[name] = f"model-{number:05d}-of-{len(tensors):05d}.safetensors"
        save_file({name: tensor}, folder / listed[name], {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder


def test_an_index_that_names_a_file_that_is_not_there(three: list[Path], tmp_path: Path) -> None:
    other = sharded(tmp_path / "in" / "sharded", weights(3))
    (other / "model-00002-of-00002.safetensors").unlink()
    refused([*three, other], tmp_path / "out", "lists files that are not there: model-00002-of-00002.safetensors")


def test_an_index_that_names_the_wrong_file(three: list[Path], tmp_path: Path) -> None:
    other = sharded(tmp_path / "in" / "sharded", weights(3))
    index = other / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["a.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(value))
    refused([*three, other], tmp_path / "out", "says that model-00002-of-00002.safetensors holds 'a.weight'")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '"\ud800"'.encode("utf-8", "surrogatepass")])
def test_a_configuration_that_is_no_json(three: list[Path], tmp_path: Path, text: str | bytes) -> None:
    (three[1] / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(three, tmp_path / "out", str(three[1] / "config.json"), "not readable as JSON")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 2])
def test_weights_that_are_no_numbers(three: list[Path], tmp_path: Path, which: int, value: float) -> None:
    tensors = load_file(three[which] / "model.safetensors")
    tensors["a.weight"][1, 1] = value
    save_file(tensors, three[which] / "model.safetensors")
    who = "leave that specialist out" if which else "use a base that is whole"
    refused(three, tmp_path / "out", "'a.weight'", str(three[which]), "holds NaN or infinity in", who)
    refused(three[which:], tmp_path / "out", str(three[which]), more=("--no-base",))


# Tensors that are not merged


def test_whole_numbers_that_differ_are_those_of_the_base(tmp_path: Path) -> None:
    """Large ones too: their end differs here, past what is compared at once."""
    long = torch.zeros(5_000_000, dtype=torch.int8)
    changed = long.clone()
    changed[-1] = 1
    kinds = {"steps": torch.tensor([1, 2]), "mask": torch.tensor([True]), "packed": long, "same": torch.tensor([7])}
    other = {**kinds, "steps": torch.tensor([9, 9]), "mask": torch.tensor([False]), "packed": changed}
    folders = [model(tmp_path / "base", weights(0, **kinds)), model(tmp_path / "one", weights(1, **other))]
    made = merged(folders, tmp_path / "out")
    assert all(torch.equal(made[name], tensor) for name, tensor in kinds.items())
    words = "is not floating point, and differs between the models: the base's is kept"
    assert sorted(notes(tmp_path / "out")) == [f"{name} {words}" for name in ("mask", "packed", "steps")]


def test_eight_bit_floats_are_those_of_the_base(tmp_path: Path) -> None:
    values = [torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn), torch.tensor([1.0, 4.0]).to(torch.float8_e4m3fn)]
    folders = [model(tmp_path / name, weights(n, c=values[n])) for n, name in enumerate(("base", "one"))]
    made = merged(folders, tmp_path / "out")
    assert made["c"].dtype == torch.float8_e4m3fn and made["c"].float().tolist() == [1.0, 2.0]
    assert notes(tmp_path / "out") == [
        "c is stored as F8_E4M3, which is not merged, and differs between the models: the base's is kept"
    ]


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("which", ["base", "model"])
def test_numbers_where_the_other_has_weights(tmp_path: Path, dtype: torch.dtype, which: str) -> None:
    """They enter no merge as weights, nor do weights enter them; whole numbers of both are the base's."""
    plain = weights(0, ids=torch.arange(3))
    odd = {**plain, "b.weight": plain["b.weight"].to(dtype)}
    folders = [model(tmp_path / "base", odd if which == "base" else plain)]
    folders.append(model(tmp_path / "one", odd if which == "model" else plain))
    found = refused(folders, tmp_path / "out", "'b.weight' is stored as", "in the base as", "dequantize()")
    assert "F32" in found and str(tmp_path / "one") in found
    made = merged(folders, tmp_path / "out", "--on-mismatch", "keep-base")
    assert made["b.weight"].dtype == (dtype if which == "base" else torch.float32) and "ids" in made
    assert "the base's are kept there" in notes(tmp_path / "out")[0]


def test_whole_numbers_beside_a_scale_are_no_quantised_weights(tmp_path: Path) -> None:
    more = {"steps": torch.tensor([3]), "scale": torch.ones(1), "n.scale": torch.ones(2), "n.steps": torch.tensor(7)}
    said = {"config.json": '{"quantization_config": {"quant_method": "any"}}'}  # of a model that was unpacked
    folders = [model(tmp_path / name, weights(0, **more), said) for name in ("base", "one")]
    assert set(merged(folders, tmp_path / "out")) == {"a.weight", "b.weight", *more}


QUANTISED: dict[str, tuple[dict[str, Tensor], dict[str, str]]] = {
    "bitsandbytes, 8 bits": ({"a.weight": torch.ones(4, 3, dtype=torch.int8), "a.SCB": torch.ones(4)}, {}),
    "bitsandbytes, 4 bits": (
        {"a.weight": torch.ones(6, 1, dtype=torch.uint8), "a.weight.absmax": torch.ones(2)}, {}
    ),
    "GPTQ": ({"a.qweight": torch.ones(4, 3, dtype=torch.int32), "a.scales": torch.ones(4).half()}, {}),
    "float8": (
        {"a.weight": torch.ones(4, 3).to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(1, 1)}, {}
    ),
    "compressed": ({"a.weight_packed": torch.ones(4, 3, dtype=torch.int32), "a.weight_scale": torch.ones(4)}, {}),
    "by the configuration": (
        {"a.weight": torch.ones(4, 3, dtype=torch.int8)},
        {"config.json": '{"quantization_config": {"quant_method": "any"}}'},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", QUANTISED)
def test_quantised_models_do_not_merge_not_even_with_one_another(tmp_path: Path, case: str) -> None:
    """Their scales are floats, which would be merged beside numbers of the base that they do not belong to."""
    tensors, files = QUANTISED[case]
    folders = [model(tmp_path / name, {**weights(0), **tensors}, files) for name in ("base", "one")]
    for more in ((), ("--on-mismatch", "keep-base")):
        refused(folders, tmp_path / "out", "are quantised: 'a.", "dequantize()", more=more)
    with pytest.raises(AllroundError, match="are quantised"):
        cli("extract-lora", folders[1], folders[0], "--rank", "1", "-o", tmp_path / "adapter")


# Models that are built otherwise


def test_an_output_layer_that_only_the_base_stores(tmp_path: Path) -> None:
    """The model is tied: its output layer is its embedding, and is merged as such."""
    rows = {"embed_tokens.weight": torch.ones(3, 2), "lm_head.weight": torch.full((3, 2), 3.0)}
    base = model(tmp_path / "base", rows, HEAD)
    tied = model(tmp_path / "tied", {"embed_tokens.weight": torch.full((3, 2), 5.0)}, TIED)
    made = merged([base, tied], tmp_path / "out", "--weights", "0.5", "--normalize", "false")
    assert made["embed_tokens.weight"].unique().tolist() == [3.0]
    assert made["lm_head.weight"].unique().tolist() == [4.0]


def test_an_output_layer_that_only_the_model_stores(tmp_path: Path) -> None:
    """Of a tied model it only repeats the embedding; of another it is a change of what the base has as both."""
    rows = {"embed_tokens.weight": torch.ones(3, 2)}
    base = model(tmp_path / "base", rows, TIED)
    both = {"embed_tokens.weight": torch.full((3, 2), 5.0), "lm_head.weight": torch.full((3, 2), 5.0)}
    made = merged([base, model(tmp_path / "tied", both, TIED)], tmp_path / "out")
    assert list(made) == ["embed_tokens.weight"] and made["embed_tokens.weight"].unique().tolist() == [5.0]
    own = model(tmp_path / "own", {**both, "lm_head.weight": torch.full((3, 2), 9.0)}, HEAD)
    made = merged([base, own, model(tmp_path / "other", rows, TIED)], tmp_path / "o2")
    assert made["embed_tokens.weight"].unique().tolist() == [3.0]
    assert made["lm_head.weight"].unique().tolist() == [5.0]
    assert json.loads((tmp_path / "o2" / "config.json").read_text()) == {"tie_word_embeddings": False}
    assert any("tie_word_embeddings: false" in note for note in notes(tmp_path / "o2"))
    bare = model(tmp_path / "bare", rows, HEAD)  # a base that has no output layer at all
    refused([bare, own], tmp_path / "o3", "1 tensor is not in the base (lm_head.weight)")


def test_a_missing_bias_is_not_the_embedding_of_a_tied_model(tmp_path: Path) -> None:
    base = model(tmp_path / "base", {"wte.weight": torch.ones(3, 2), "decoder.bias": torch.ones(3)})
    tied = model(tmp_path / "tied", {"wte.weight": torch.zeros(3, 2)}, TIED)
    refused([base, tied], tmp_path / "out", "1 tensor of the base is missing (decoder.bias)")


def vocabularies(folder: Path) -> list[Path]:
    """A base and two models; the second has a row more in its embedding."""
    tensors = [
        {"embed_tokens.weight": torch.tensor([[0.1], [0.2]]), "w": torch.tensor([1.0])},
        {"embed_tokens.weight": torch.tensor([[1.1], [2.2]]), "w": torch.tensor([2.0])},
        {"embed_tokens.weight": torch.tensor([[7.0], [7.0], [7.0]]), "w": torch.tensor([6.0])},
    ]
    return [model(folder / name, tensors[n]) for n, name in enumerate(("base", "one", "two"))]


def test_vocabularies_that_differ(tmp_path: Path) -> None:
    folders = vocabularies(tmp_path / "in")
    error = refused(folders, tmp_path / "out", "the vocabularies differ", "--on-mismatch keep-base", str(folders[2]))
    assert "embed_tokens.weight: (3, 1), in the base (2, 1)" in error
    kept = merged(folders, tmp_path / "kept", "--on-mismatch", "keep-base")
    assert torch.equal(kept["embed_tokens.weight"], torch.tensor([[0.1], [0.2]]))
    assert kept["w"].tolist() == [4.0]
    assert "the base's are kept there" in notes(tmp_path / "kept")[0]
    left = merged(folders, tmp_path / "left", "--on-mismatch", "skip", "--weights", "1,3")
    assert torch.equal(left["embed_tokens.weight"], torch.tensor([[1.1], [2.2]])), "the mean of the first model alone"
    assert left["w"].tolist() == [(2 + 3 * 6) / 4]
    assert "it is left out there" in notes(tmp_path / "left")[0]


def test_heads_that_only_the_specialists_have(three: list[Path], tmp_path: Path) -> None:
    extra = {"classifier.weight": torch.ones(2), "classifier.bias": torch.ones(2)}
    headed = [model(tmp_path / "in" / f"headed{n}", weights(n, **extra)) for n in (1, 2)]
    error = refused([three[0], *headed], tmp_path / "out", "2 tensors are not in the base", "classifier.weight")
    assert "to go on without these tensors" in error and "--on-mismatch keep-base" in error
    made = merged([three[0], *headed], tmp_path / "out", "--on-mismatch", "keep-base")
    assert {n: t.tolist() for n, t in made.items()} == {
        n: t.tolist() for n, t in merged(three, tmp_path / "plain").items()
    }
    assert all(n.endswith("; what the base lacks is not in the merged model") for n in notes(tmp_path / "out"))


@pytest.mark.parametrize("inner", [0, 2])
def test_names_under_a_prefix(three: list[Path], tmp_path: Path, inner: int) -> None:
    """In a model, or in the base: the merged model has the base's names."""
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(three[inner] / "model.safetensors").items()}
    other = [*three]
    other[inner] = model(tmp_path / "in" / "prefixed", tensors)
    plain, made = merged(three, tmp_path / "plain"), merged(other, tmp_path / "out")
    for name, tensor in plain.items():
        assert torch.equal(made[name if inner else f"bert.{name}"], tensor)


def test_a_base_of_fewer_bits_than_the_models(tmp_path: Path) -> None:
    base = model(tmp_path / "base", {"w": torch.tensor([1.0, 256.0]).bfloat16()})
    others = [model(tmp_path / f"m{n}", {"w": torch.tensor([1.0 + n / 4, 257.0 + n])}) for n in (1, 2)]
    made = merged([base, *others], tmp_path / "out")
    assert made["w"].dtype == torch.bfloat16 and made["w"].tolist() == [1.375, 258.0], "258.5 before it is rounded"
    made = merged([base, *others], tmp_path / "wide", "--dtype", "float32")
    assert made["w"].dtype == torch.float32 and made["w"].tolist() == [1.375, 258.5]


def test_tensors_of_several_dtypes_in_one_model(tmp_path: Path) -> None:
    """Each is computed in float32 (float64 where one is that), and stored as in the base, unless one is asked for."""
    kinds = {"a": torch.float16, "b": torch.bfloat16, "c": torch.float32, "d": torch.float64}
    base = model(tmp_path / "base", {name: torch.full((2,), 1.0, dtype=dtype) for name, dtype in kinds.items()})
    turned = dict(zip(kinds, reversed(kinds.values()), strict=True))
    one = model(tmp_path / "one", {name: torch.full((2,), 1.5, dtype=dtype) for name, dtype in turned.items()})
    two = model(tmp_path / "two", {name: torch.full((2,), 2.0) for name in kinds})
    made = merged([base, one, two], tmp_path / "out")
    assert {name: tensor.dtype for name, tensor in made.items()} == kinds
    assert all(tensor.unique().tolist() == [1.75] for tensor in made.values())
    made = merged([base, one, two], tmp_path / "o2", "--dtype", "bfloat16")
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}
    assert all(tensor.unique().tolist() == [1.75] for tensor in made.values())


def test_models_that_are_the_base_or_one_another(three: list[Path], tmp_path: Path) -> None:
    base, one, _ = three
    same = merged([base, base], tmp_path / "same", method="ties")
    assert all(torch.equal(t, same[n]) for n, t in load_file(base / "model.safetensors").items())
    twice, once = merged([base, one, one], tmp_path / "twice"), merged([base, one], tmp_path / "once")
    assert all(torch.equal(t, twice[n]) for n, t in once.items())


def test_tensors_of_no_dimension_and_of_no_size(tmp_path: Path) -> None:
    kinds = [{"scale": torch.tensor(float(n)), "none": torch.empty(0, 4), "no": torch.empty(0)} for n in range(3)]
    folders = [model(tmp_path / f"m{n}", kinds[n]) for n in range(3)]
    for method in ("average", "ties", "iso_c"):
        made = merged(folders, tmp_path / method, method=method)
        assert {n: tuple(t.shape) for n, t in made.items()} == {"scale": (), "none": (0, 4), "no": (0,)}
        assert made["scale"].item() == 1.5
    assert merged(folders[1:], tmp_path / "mean", "--no-base")["scale"].item() == 1.5


@pytest.mark.parametrize("name", ["w" * 20_000, "Größe/重み.🙂", "with space\n\t\"'\\", "../../up", "", "\x00"])
def test_odd_names_of_tensors(tmp_path: Path, name: str) -> None:
    folders = [model(tmp_path / f"m{n}", {name: torch.tensor([float(n)]), "b": torch.ones(2)}) for n in range(3)]
    made = merged(folders, tmp_path / "out", method="ties")
    assert made[name].item() == 1.5 and sorted(p.name for p in tmp_path.iterdir()) == ["m0", "m1", "m2", "out"]
    assert cli("merge", *folders, "--dry-run")


# Pickled files


def test_a_pickled_checkpoint_of_tensors(three: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "in" / "pickled"
    other.mkdir()
    torch.save(load_file(three[2] / "model.safetensors"), other / "pytorch_model.bin")
    plain, made = merged(three, tmp_path / "plain"), merged([*three[:2], other], tmp_path / "out")
    assert all(torch.equal(tensor, made[name]) for name, tensor in plain.items())
    made = merged([other, *three[:2]], tmp_path / "base")
    written = [MANIFEST, "README.md", "merge.json", "model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "base").iterdir()) == written


class Trap:
    """Unpickling this leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickled_checkpoint_with_code(three: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "in" / "pickled"
    other.mkdir()
    torch.save({"a.weight": Trap(tmp_path / "run")}, other / "pytorch_model.bin")
    refused([*three[:2], other], tmp_path / "out", "it holds more than tensors", "save the model as safetensors")
    assert not (tmp_path / "run").exists(), "no code of it was run"


@pytest.mark.parametrize(
    "tensor", [torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse()], ids=["complex", "sparse"]
)
def test_a_pickled_tensor_of_another_sort(three: list[Path], tmp_path: Path, tensor: Tensor) -> None:
    other = tmp_path / "in" / "pickled"
    other.mkdir()
    torch.save({"a.weight": tensor}, other / "pytorch_model.bin")
    refused([*three, other], tmp_path / "out", "'a.weight' in it is stored as", "which allround does not read")


# Folders


def test_a_folder_without_weights(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in" / "empty").mkdir()
    refused([*three, tmp_path / "in" / "empty"], tmp_path / "out", "the folder holds no .safetensors file")


def test_models_by_links(three: list[Path], tmp_path: Path) -> None:
    """The folder may be a link, and so may its files, as in the cache of the Hub."""
    (tmp_path / "link").symlink_to(three[1])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model.safetensors").symlink_to(three[2] / "model.safetensors")
    plain = merged(three, tmp_path / "plain")
    made = merged([three[0], tmp_path / "link", tmp_path / "files"], tmp_path / "out")
    assert all(torch.equal(tensor, made[name]) for name, tensor in plain.items())


def test_an_id_that_the_hub_does_not_have(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(AllroundError) as caught:
        cli("merge", three[0], "nobody/nothing", "-o", tmp_path / "out")
    assert caught.value.asked == "open the model 'nobody/nothing'"
    assert "there is no such folder, and the Hub gave nothing of that name" in caught.value.found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["in/base/out", "in/one/deep/er", "in/two"])
def test_an_output_within_an_input(three: list[Path], tmp_path: Path, place: str) -> None:
    refused(three, tmp_path / place)
    assert [sorted(p.name for p in folder.iterdir()) for folder in three] == [["model.safetensors"]] * 3


def test_a_merged_model_is_not_replaced_by_a_merge_of_itself(three: list[Path], tmp_path: Path) -> None:
    """allround made it, so it could be replaced; but it is read at the time."""
    out = tmp_path / "out"
    merged(three, out)
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "by_file").mkdir()
    (tmp_path / "by_file" / "model.safetensors").symlink_to(out / "model.safetensors")
    before = content(out)
    for other in (out, tmp_path / "link", tmp_path / "by_file", out / "model.safetensors"):
        with pytest.raises(AllroundError, match="one must not lie within the other"):
            cli("merge", three[0], other, "-m", "average", "-o", out)
        assert content(out) == before and not (tmp_path / ".out.partial").exists()


def test_an_output_that_holds_other_things(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    refused(three, tmp_path / "mine", "which allround did not write")
    refused(three, tmp_path / "file", "there is a file of that name")
    refused(three, tmp_path / "file" / "below", "it cannot be written")
    refused(three, tmp_path / ("long" * 100), "it cannot be written: the name is too long")
    refused(three, tmp_path / ("long" * 62), "it cannot be written: the name is too long")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "in", "mine"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """For the administrator every folder can be written, so the system's answer is played here."""
    (tmp_path / "locked").mkdir()
    system = os.mkdir

    def mkdir(path: Any, *rest: Any) -> None:
        if "locked" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        system(path, *rest)

    monkeypatch.setattr(os, "mkdir", mkdir)
    refused(three, tmp_path / "locked" / "out", "it cannot be written", "choose a folder that you can write to")
    assert list((tmp_path / "locked").iterdir()) == []


# A full disk


def _full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


class Fills:
    """os.pwrite of a disk that is full after a number of calls."""

    def __init__(self, calls: int) -> None:
        self.calls, self.system = calls, os.pwrite

    def __call__(self, *arguments: Any) -> int:
        self.calls -= 1
        return self.system(*arguments) if self.calls >= 0 else _full()


@pytest.mark.parametrize("where", ["posix_fallocate", "pwrite", "copy", "name"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, workers: int) -> None:
    """Said in words; the inputs are untouched, nothing lies at the output, and the same command goes on."""
    names = [f"t{n}" for n in range(4)]
    folders = []
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        folders.append(sharded(tmp_path / f"m{seed}", {name: torch.randn(50, generator=draw) for name in names}))
        (folders[-1] / "config.json").write_text("{}")
    before, out = [content(f) for f in folders], tmp_path / "out"
    words = ("merge", *folders, "-m", "average", "--workers", workers, "-o", out)
    if where == "posix_fallocate":
        allocate, calls = os.posix_fallocate, [0]

        def take(*arguments: Any) -> None:
            calls[0] += 1
            allocate(*arguments) if calls[0] < 3 else _full()

        monkeypatch.setattr(os, "posix_fallocate", take)
    elif where == "pwrite":
        monkeypatch.setattr(os, "pwrite", Fills(5))  # the header and the tensor of two shards, and half of the third
    elif where == "copy":
        monkeypatch.setattr("shutil.copyfile", _full)
    else:
        system = tempfile.mkstemp

        def begin(*arguments: Any, prefix: str = "", **rest: Any) -> Any:
            return _full() if "00003-of" in prefix else system(*arguments, prefix=prefix, **rest)

        monkeypatch.setattr(tempfile, "mkstemp", begin)
    with pytest.raises(AllroundError) as caught:
        cli(*words)
    assert caught.value.asked.startswith(f"write {tmp_path}") and caught.value.found == "the disk is full"
    assert "run the same command again: finished work is kept" in caught.value.do
    assert [content(f) for f in folders] == before and not out.exists()
    kept = {p.name: p.stat().st_ino for p in (tmp_path / ".out.partial" / "new" / "out").glob("*.safetensors")}
    assert len(kept) == (4 if where == "copy" else 2)
    monkeypatch.undo()
    cli(*words)
    assert {name: (out / name).stat().st_ino for name in kept} == kept
    for number, name in enumerate(names, 1):
        tensors = [load_file(f / f"model-{number:05d}-of-00004.safetensors")[name] for f in (*folders, out)]
        assert torch.allclose(tensors[3], (tensors[1] + tensors[2]) / 2, atol=1e-6)
    assert not (tmp_path / ".out.partial").exists()


def test_a_disk_that_is_read_only_is_not_called_full(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no free space either, and freeing some would not help."""
    from allround.merging import preflight

    system = os.statvfs(tmp_path)
    fields = {"f_flag": os.ST_RDONLY, "f_bavail": 0, "f_frsize": system.f_frsize}
    monkeypatch.setattr(preflight.os, "statvfs", lambda _: SimpleNamespace(**fields))
    refused(three, tmp_path / "out", "it cannot be written: the disk is read-only", "choose a folder")


def test_what_is_written_already_needs_no_space_again(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on must not be refused for space that its own files take."""
    unfinished = tmp_path / ".out.partial" / "new" / "out"
    unfinished.mkdir(parents=True)
    (tmp_path / ".out.partial" / LOCK).touch()
    with open(unfinished / "model.safetensors", "wb") as file:
        file.truncate(60_000_000)
    from allround.merging import preflight

    class Usage:
        free = 1000

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Usage)
    refused(three, tmp_path / "other", "1.0 kB are free there", "store less: --dtype bfloat16")
    merged(three, tmp_path / "out")
