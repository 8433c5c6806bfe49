"""Queries that a language model draws: the prompt, what they depend on, and how many examples fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.language import FAMILIES, save_model

from allround.models.base import load_encoder
from allround.models.encoders.language_model import LanguageModel
from allround.models.language.query_writing import LONGEST, QueryWriter, query_task
from allround.tasks.prompt_text import plain_text

EXAMPLES = [("It came too\nlate, again.", "late"), ("The parcel is lost.", "Where is my\n parcel?")]
PASSAGES = {"p1": "nobody has seen it", "p2": "something else", "p3": "What is 12 + 7?"}


def opened(folder: Path) -> LanguageModel:
    found = load_encoder(folder)
    assert isinstance(found, LanguageModel)
    return found


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> QueryWriter:
    return QueryWriter(opened(save_model(tmp_path_factory.mktemp("llama"), "llama")), query_task(EXAMPLES), 1.0)


def test_the_prompt() -> None:
    text = plain_text(query_task(EXAMPLES, ("Page {1}", "Question"), "Ask in {one} line."), ["About bills."])
    assert text == (
        "Ask in {one} line.\n\nPage {1}: It came too late, again.\nQuestion: late\n\n"
        "Page {1}: The parcel is lost.\nQuestion: Where is my parcel?\n\nPage {1}: About bills.\nQuestion:"
    )


def test_queries_of_a_passage_depend_on_it_and_the_seed_alone(writer: QueryWriter) -> None:
    first = {one: writer.write(one, text, 3) for one, text in PASSAGES.items()}
    again = replace(writer)  # what it read of other prompts is not kept
    assert {one: again.write(one, PASSAGES[one], 3) for one in reversed(PASSAGES)} == {o: first[o] for o in first}
    assert len(first["p1"]) == 3 and len(set(first["p1"])) > 1, "they are drawn"
    assert replace(writer, seed=1).write("p1", PASSAGES["p1"], 3) != first["p1"]
    assert writer.write("p2", PASSAGES["p1"], 3) != first["p1"], "the same text under another id is drawn anew"
    assert not any("\n" in query for queries in first.values() for query in queries)
    state = torch.get_rng_state()
    writer.write("p1", "a", 1)
    assert torch.equal(state, torch.get_rng_state()), "others draw as if nothing had been drawn"


def test_a_low_temperature_is_greedy(writer: QueryWriter) -> None:
    low = replace(writer, temperature=1e-4)
    assert len(set(low.write("p1", PASSAGES["p1"], 4))) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_what_prompts_have_in_common_is_read_once(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts are those that the library draws when it reads the whole prompt of each row."""
    model = opened(save_model(tmp_path, family))
    reads: list[int] = []
    read_prompt = type(model.net).read_prompt

    def counted(net: Any, ids: torch.Tensor, before: Any = None) -> Any:
        reads.append(ids.shape[1])
        return read_prompt(net, ids, before)

    monkeypatch.setattr(type(model.net), "read_prompt", counted)
    task = query_task(EXAMPLES)
    writer = QueryWriter(model, task, 0.8)
    found = {one: writer.write(one, text, 2) for one, text in PASSAGES.items()}
    if family != "t5":
        assert reads[0] > max(reads[1:]) and len(reads) == 4, "the examples once, and the rest of each prompt"
    monkeypatch.setattr(type(model.net), "read_prompt", lambda *_: None)
    assert found == {one: QueryWriter(model, task, 0.8).write(one, text, 2) for one, text in PASSAGES.items()}


def test_examples_that_do_not_fit_are_left_out(writer: QueryWriter) -> None:
    assert writer.fitting().examples == 2
    long = query_task([*EXAMPLES, ("parcel " * 150, "late")])
    fitting = replace(writer, task=long).fitting()
    assert fitting.examples == 2 and fitting.task == replace(
        long, prompt=replace(long.prompt, demonstrations=long.prompt.demonstrations[:2])
    )
    assert replace(writer, task=query_task([("parcel " * 150, "late")])).fitting().examples == 0


def test_a_long_passage_is_cut(writer: QueryWriter) -> None:
    most = writer.model.asker.renderer.longest
    (row,) = writer.model.prepare([("parcel " * 400,)], writer.task)
    assert row.cut and len(row.prompts[0]) <= most - LONGEST
    assert len(writer.write("p", "parcel " * 400, 2)) == 2
