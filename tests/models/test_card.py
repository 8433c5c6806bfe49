"""The card of a model: front matter that the Hub can read, and the text as it was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from allround.models.card import CARD, hub_card, write_card
from allround.tasks.definition import Definition
from allround.tasks.prompt import Prompt


def test_the_front_matter_names_what_is_on_the_hub_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "local").mkdir(parents=True)
    names = ["org/base", "models/local", str(tmp_path), "small_table", "all-MiniLM-L6-v2", "org/base"]
    write_card(tmp_path, "both", ["Made.", "", "- once"], tags=["merge"], made_from=names)
    found = ModelCard.load(tmp_path / CARD)
    assert found.data.to_dict() == {
        "library_name": "allround",
        "tags": ["merge", "allround"],
        "base_model": ["org/base", "sentence-transformers/all-MiniLM-L6-v2"],
    }
    assert found.text.strip() == "# both\n\nMade.\n\n- once"


def test_what_nobody_said_is_not_invented(tmp_path: Path) -> None:
    write_card(tmp_path, "alone", ["Made."])
    assert ModelCard.load(tmp_path / CARD).data.to_dict() == {"library_name": "allround", "tags": ["allround"]}


def test_the_card_for_the_hub_has_the_prompts() -> None:
    put = Prompt(("Message: {message}\nTopic:", "{message}?"), choices=("it is late", "it is lost"))
    plain = Definition("topic", "classification", ("message",), "text", "accuracy", ("late", "lost"))
    asked = Definition("topic", "classification", ("message",), "text", "accuracy", ("late", "lost"), prompt=put)
    cards = [hub_card("me/m", "model", {"topic": one}, {}, base=None, licence="mit") for one in (plain, asked)]
    assert "## Prompts" not in cards[0]
    said = cards[1].split("## Prompts")[1].split("```")[1].removeprefix("json")
    assert json.loads(said) == {"topic": {"templates": list(put.templates), "choices": list(put.choices)}}
