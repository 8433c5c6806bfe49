"""Numbers that are not finite are an error that says where they are, in every command that would use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from allround.checkpoints.finite import count_odd
from allround.checkpoints.weights import Weights
from allround.cli.app import app
from allround.core.errors import AllroundError
from allround.evaluation.predict import predict_split
from allround.evaluation.predictions import Predictions
from allround.models.base import load_encoder
from allround.models.encoders.small_image import SmallImage
from allround.models.encoders.small_table import SmallTable
from allround.models.fitting import fit_head
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.suite import Suite

NAN, INF = float("nan"), float("inf")
LIMITS = "--limit train=60 --limit validation=30 --limit test=30"


def cli(words: str, **paths: Path) -> str:
    """Run a command; words that are keys of `paths` stand for them, also after "="."""
    given = [word.rpartition("=") for word in words.split()]
    result = CliRunner().invoke(app, [f"{before}{sign}{paths.get(word, word)}" for before, sign, word in given])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refused(words: str, found: str, **paths: Path) -> None:
    with pytest.raises(AllroundError) as caught:
        cli(words, **paths)
    assert found in caught.value.found, caught.value
    assert "OUT" not in paths or not paths["OUT"].exists()


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change a safetensors file in place."""
    tensors, metadata = load_file(path), Weights(path).metadata
    change(tensors)
    save_file(tensors, path, metadata)


@pytest.fixture
def models(small_image: SmallImage, digits_suite: Suite, tmp_path: Path) -> dict[str, Path]:
    """BASE and the specialists ONE (digit) and TWO (ink); OUT is where nothing should come to be."""
    found = {"BASE": tmp_path / "base", "OUT": tmp_path / "out"}
    found["BASE"].mkdir()
    small_image.save(found["BASE"])
    for number, (key, name) in enumerate((("ONE", "digit"), ("TWO", "ink"))):
        model = MultiTaskModel(load_encoder(found["BASE"]), {name: digits_suite.tasks[name].definition})
        draw = torch.Generator().manual_seed(number)
        for tensor in model.state_dict().values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=draw)
        found[key] = tmp_path / key
        model.save(found[key])
    return found


def put(value: float, places: int = 2) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        name = "layers.3.weight" if "layers.3.weight" in tensors else "digit.weight"
        tensors[name].view(-1)[:places] = value

    return change


ENCODER = "holds NaN or infinity in 2 of 36,864 places"


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    "words",
    [
        f"evaluate ONE digits --only digit {LIMITS}",
        "predict ONE --task digit x.png",
        "merge BASE ONE TWO -o OUT",
        "merge --no-base ONE TWO -o OUT",
        "merge BASE ONE TWO --learn divmerge --suite digits --only digit,ink -o OUT",
        "compress BASE ONE TWO -c sparse -m none -o OUT",
        "compress ONE TWO -c sparse -m none -o OUT",
        f"tune digits digit --base ONE {LIMITS} -o OUT",
        f"stats ONE digits --kind gram {LIMITS} -o FILE.safetensors",
        "align TWO ONE --by weights -o OUT",
        "extract-lora ONE BASE --rank 2 -o OUT",
    ],
)
def test_in_the_weights_of_an_encoder(words: str, value: float, models: dict[str, Path]) -> None:
    edit(models["ONE"] / "encoder" / "model.safetensors", put(value))
    refused(words, ENCODER, **models)


@pytest.mark.parametrize(
    "words",
    [
        f"evaluate ONE digits --only digit {LIMITS}",
        "predict ONE --task digit x.png",
        "merge BASE ONE TWO -o OUT",
        "compress BASE ONE TWO -c sparse -m none -o OUT",
    ],
)
def test_in_a_head(words: str, models: dict[str, Path]) -> None:
    edit(models["ONE"] / "heads.safetensors", put(NAN))
    refused(words, f"'digit.weight' in {models['ONE']}/heads.safetensors holds NaN or infinity in 2 of 1,280", **models)


def test_in_a_residual(models: dict[str, Path], tmp_path: Path, digits_suite: Suite) -> None:
    store = tmp_path / "store"
    cli("compress BASE ONE TWO -c sparse --keep=1 --values own -m none -o STORE", STORE=store, **models)

    def change(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.startswith("layers.3.weight") and tensors[n].is_floating_point())
        tensors[name].view(-1)[:3] = NAN

    edit(store / "residuals" / "digit.safetensors", change)
    found = "NaN or infinity comes in 3 of 36,864 places"
    refused("materialise STORE digit -o OUT", found, STORE=store, **models)
    refused(f"evaluate STORE digits --only digit {LIMITS}", found, STORE=store)
    model = load(store)
    with pytest.raises(AllroundError, match=r"'layers\.3\.weight' with .*residuals/digit\.safetensors"):
        model.answers("digit", digits_suite.tasks["digit"].splits["test"].inputs)
    assert len(predict_split(model, digits_suite.tasks["ink"], "test")) == 30, "the others are answered"


@pytest.mark.parametrize("unchanged", [True, False])
def test_numbers_too_large_for_the_dtype_that_is_written(unchanged: bool, models: dict[str, Path]) -> None:
    """Also those that no model changed, and those that are taken over because no model has them."""
    for key in ("BASE", "ONE", "TWO"):
        folder = models[key] if key == "BASE" else models[key] / "encoder"
        edit(folder / "model.safetensors", lambda tensors: tensors["layers.0.bias"].fill_(1e5))
    if not unchanged:
        edit(models["ONE"] / "encoder" / "model.safetensors", lambda tensors: tensors.pop("layers.0.bias"))
    words = "merge BASE ONE TWO --method average --on-mismatch keep-base -o OUT --dtype"
    refused(f"{words} float16", "'layers.0.bias' reaches 1e+05, and float16 ends at 6.55e+04", **models)
    cli(f"{words} bfloat16", **models)
    assert float(load_file(models["OUT"] / "encoder" / "model.safetensors")["layers.0.bias"][0]) == pytest.approx(
        1e5, rel=0.01
    )


@pytest.mark.parametrize("method", ["mats", "regmean"])
def test_in_statistics(method: str, models: dict[str, Path], tmp_path: Path) -> None:
    files = {}
    for key, task in (("ONE", "digit"), ("TWO", "ink")):
        files[key] = tmp_path / f"{task}.safetensors"
        cli(f"stats {key} digits --kind gram {LIMITS} -o FILE", FILE=files[key], **models)
    edit(files["TWO"], lambda tensors: tensors["layers.3.weight"].view(-1)[:2].fill_(NAN))
    given = f"--statistics gram={files['ONE']},{files['TWO']}"
    refused(f"merge BASE ONE TWO --method {method} {given} -o OUT",
            f"'layers.3.weight' in {files['TWO']} holds NaN or infinity in 2 of 82,944 places", **models)  # fmt: skip


def test_in_answers(table_suite: Suite, small_table: SmallTable, digits_suite: Suite, small_image: SmallImage) -> None:
    """Of single rows that are out of all bounds, and of a network whose weights are not finite."""
    task = table_suite.tasks["petal"]
    rows = [(1.0, 2.0, 3.0, "small"), (1e308, 2.0, 3.0, "small"), (1.0, 1e300, 3.0, "large")]
    kept = MultiTaskModel(small_table, {"petal": task.definition}).eval().predict("petal", rows)
    assert np.isfinite(kept).all(), "numbers that are far out count as the farthest"
    # As earlier versions read numbers.
    columns = [{k: v for k, v in column.items() if k != "edges"} for column in small_table.columns]
    model = MultiTaskModel(SmallTable(columns=columns, width=16), {"petal": task.definition}).eval()
    torch.nn.init.ones_(model.heads["petal"].weight)
    with pytest.raises(
        AllroundError, match=r"NaN or infinity came for 2 of 3 rows, first for row 1 \(counted from 0\)\n"
    ):
        model.predict("petal", rows)
    image = digits_suite.tasks["digit"]
    network = MultiTaskModel(SmallImage(size=8), {"digit": image.definition})
    network.encoder.load_state_dict(small_image.state_dict())
    torch.nn.init.constant_(network.encoder.get_parameter("layers.1.bias"), NAN)
    words = r"came for 30 of 30 rows.*'layers.1.bias' of the encoder holds NaN or infinity in 32 of 32 places"
    for use in (
        lambda: predict_split(network, image, "test"),
        lambda: fit_head(network.encoder, image.limit({"train": 30})),
    ):
        with pytest.raises(AllroundError, match=words):
            use()


@pytest.mark.parametrize("part", ["targets", "predictions", "confidence"])
def test_in_predictions(part: str, table_suite: Suite) -> None:
    given: dict[str, Any] = {"targets": np.zeros(3), "predictions": np.ones(3), "confidence": [0.5, 0.5, 1.0]}
    Predictions(table_suite.tasks["petal"].definition, "test", **given)
    given[part][1] = INF
    with pytest.raises(AllroundError, match=rf"1 of 3 {part[:9]}.* are NaN or infinite"):
        Predictions(table_suite.tasks["petal"].definition, "test", **given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_they_are_counted_in_every_dtype(dtype: torch.dtype) -> None:
    """The largest and the least numbers of a dtype are finite."""
    values = torch.ones(8).to(dtype)
    values[:3] = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min, torch.finfo(dtype).tiny], dtype=dtype)
    assert count_odd(values) == 0
    values[5:7] = torch.tensor([NAN, -INF], dtype=dtype)
    assert count_odd(values) == 2 and count_odd(values.view(2, 4).T) == 2
