"""What can be chosen about training, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allround.core.errors import AllroundError
from allround.training.settings import Settings


def test_json_round_trip() -> None:
    chosen = Settings(epochs=2, tune="lora", sample="temperature", sample_settings={"temperature": 3.0})
    assert Settings.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    assert Settings.from_json({}) == Settings()


def test_with_changes_what_is_given() -> None:
    chosen = Settings().with_(epochs=2, batch_size=None)
    assert (chosen.epochs, chosen.batch_size) == (2, Settings().batch_size)
    with pytest.raises(AllroundError):
        Settings().with_(epochs=-1)


def test_an_unknown_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(AllroundError) as caught:
        Settings.from_json({"epoch": 2})
    assert caught.value.found == "there is no such setting" and "did you mean 'epochs'" in caught.value.do


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [
        ("tune", "lore", "did you mean 'lora'"),
        ("heads", "frozn", "did you mean 'frozen'"),
        ("precision", "half", "auto, bf16, fp32"),
        ("sample", "unifrom", "did you mean 'uniform'"),
        ("batch_size", 0, "at least 1"),
        ("patience", 0, "at least 1"),
        ("lora_rank", 0, "at least 1"),
        ("clip", 0.0, "at least"),
        ("clip", -1.0, "at least"),
        ("clip", float("nan"), ""),
        ("epochs", 0, "positive"),
        ("epochs", -3, "positive"),
        ("learning_rate", 0.0, "positive"),
        ("learning_rate", -1e-3, "positive"),
        ("learning_rate", float("nan"), ""),
        ("learning_rate", float("inf"), ""),
        ("weight_decay", -0.1, ""),
        ("warmup", -0.1, ""),
        ("warmup", 1.5, ""),
    ],
)
def test_values_out_of_range(setting: str, value: Any, word: str) -> None:
    with pytest.raises(AllroundError) as caught:
        Settings(**{setting: value})
    assert setting in caught.value.asked or setting == "sample"
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", "3"),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", "16"),
        ("batch_size", 2.5),
        ("batch_size", None),
        ("learning_rate", "fast"),
        ("weight_decay", None),
        ("warmup", "x"),
        ("clip", None),
        ("patience", 1.5),
        ("tune", None),
        ("heads", 3),
        ("sample", None),
        ("sample_settings", [1]),
        ("device", 0),
        ("precision", 32),
    ],
)
def test_values_of_a_wrong_type(setting: str, value: Any) -> None:
    with pytest.raises(AllroundError):
        Settings.from_json({setting: value})


def test_whole_numbers_serve_as_rates() -> None:
    assert Settings(clip=1, learning_rate=1, warmup=0, weight_decay=0).clip == 1


def test_settings_of_the_sampler_are_checked() -> None:
    with pytest.raises(AllroundError, match="did you mean 'temperature'"):
        Settings(sample="temperature", sample_settings={"temprature": 2.0})
    with pytest.raises(AllroundError, match="takes none"):
        Settings(sample="uniform", sample_settings={"temperature": 2.0})
