"""Several instructions of a task: which rows are trained with which, and that all else uses the first."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.models.language import save_model
from tests.tasks.test_pooling import suite

from allround.composition.shown_model import ShownModel
from allround.composition.systems.demonstrated import demonstrate
from allround.models.base import load_encoder
from allround.models.system import load
from allround.models.systems.multi_task_model import MultiTaskModel
from allround.tasks.make import make_task
from allround.tasks.task import Task
from allround.training.feeds import Feed, make_feeds
from allround.training.settings import Settings
from allround.training.trainer import train

SAID = ["the film about", "bad river", "a good one is"]
TABLE: list[dict[str, Any]] = [{"x": f"film {n}", "y": "ab"[n % 2], "z": "ab"[n // 6]} for n in range(12)]


def told(task: Task, said: list[str]) -> Task:
    return replace(task, definition=replace(task.definition, instruction=said[0], rewordings=tuple(said[1:])))


def labelled(name: str, target: str, **more: Any) -> Task:
    data = dict.fromkeys(("train", "validation", "test"), TABLE)
    return make_task(name, kind="classification", inputs="x", target=target, data=data, **more)


def model_of(tasks: list[Task], folder: Path, **settings: Any) -> MultiTaskModel:
    model = MultiTaskModel(load_encoder(folder, **settings), {})
    for task in tasks:
        model.add_task(task.definition)
    return model


def feeds_of(tasks: list[Task], model: MultiTaskModel, split: str = "train", seed: int = 0) -> list[Feed]:
    return make_feeds(tasks, model, batch_size=4, batch_sizes={}, seed=seed, split=split)


def drawn(feed: Feed, wordings: list[list[Any]], epoch: int) -> list[int]:
    """Which wording each row has in an epoch."""
    feed.batch(epoch * feed.batches)
    return [next(n for n, rows in enumerate(wordings) if rows[row] == one) for row, one in enumerate(feed.rows)]


@pytest.mark.parametrize("way", ["pooled", "masked"])
def test_each_row_has_one_of_them_anew_in_each_epoch(way: str, bert_folder: Path) -> None:
    """The ids, and where they are masked the numbers of tokens, are those of a task with that instruction alone."""
    task = labelled("mood", "y", instruction=SAID)
    model = model_of([task], bert_folder, instructions=way)
    inputs = task.splits["train"].inputs
    wordings = [model.encoder.prepare(inputs, replace(task.definition, instruction=one, rewordings=())) for one in SAID]
    assert len({one["instructed"] for (one, *_) in wordings} if way == "masked" else SAID) == 3
    (feed,) = feeds_of([task], model)
    assert feed.rows == wordings[0] == model.prepare("mood", inputs)
    found = [drawn(feed, wordings, epoch) for epoch in range(20)]
    counts = Counter(turn for epoch in found for turn in epoch)
    assert sorted(counts) == [0, 1, 2] and min(counts.values()) > 50, counts  # of 240
    assert all(len({epoch[row] for epoch in found}) == 3 for row in range(12))
    (again,), (other,) = feeds_of([task], model), feeds_of([task], model, seed=1)
    assert drawn(again, wordings, 7) == found[7], "an epoch does not depend on those before"
    assert drawn(other, wordings, 7) != found[7]
    (held,) = feeds_of([task], model, "validation")
    assert drawn(held, wordings, 3) == [0] * 12


def test_searches_and_tables_are_worded_too(bert_folder: Path) -> None:
    """Passages stay as they are; tasks of a table are read together where all their instructions are the same."""
    task = told(suite().pooled()["pages"], SAID)
    model = model_of([task], bert_folder)
    split = task.splits["train"]
    wordings = [
        model.encoder.prepare(split.inputs, replace(task.definition, instruction=one, rewordings=()), split.targets)
        for one in SAID
    ]
    (feed,) = feeds_of([task], model)
    assert {turn for epoch in range(9) for turn in drawn(feed, wordings, epoch)} == {0, 1, 2}
    two = [labelled("one", "y", table="t", instruction=SAID), labelled("two", "z", table="t", instruction=SAID)]
    (both,) = feeds_of(two, model_of(two, bert_folder))
    assert both.tasks == (0, 1) and len(both.wordings) == 3
    two[1] = told(two[1], SAID[:2])
    assert [feed.tasks for feed in feeds_of(two, model_of(two, bert_folder))] == [(0,), (1,)]


def test_answers_use_the_first(bert_folder: Path, tmp_path: Path) -> None:
    """They are those of the same weights with one instruction, and so they are when the folder is loaded."""
    task = labelled("mood", "y", instruction=SAID)
    model = model_of([task], bert_folder)
    settings = Settings(epochs=2, batch_size=4, keep="last", heads="tuned")
    course = train(model, [task], settings)
    one = MultiTaskModel(model.encoder, {})
    one.add_task(replace(task.definition, rewordings=()), model.head("mood").state_dict())
    rows = task.splits["test"].inputs
    assert model.predict("mood", rows) == one.predict("mood", rows)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").definition("mood") == model.definition("mood")
    assert load(tmp_path / "model").definition("mood").rewordings == tuple(SAID[1:])
    alone = told(task, SAID[:1])
    other = model_of([alone], bert_folder)
    assert train(other, [alone], settings).evaluations != course.evaluations
    assert alone.content != task.content


def test_prompts_of_language_models_are_worded(tmp_path: Path) -> None:
    """Also behind demonstrations; with the loss `all`, rows have as many losses as their own prompt has tokens."""
    task = labelled("mood", "y", instruction=SAID, prompt="{x}?", loss="all")
    model = model_of([task], save_model(tmp_path / "base", "llama"))
    shown = ShownModel(demonstrate(model, [task], "random:count=1"))
    for one in (model, shown):
        (feed,) = feeds_of([task], one)
        starts = [str(rows[0].prompts) for rows, _ in feed.wordings]
        assert len(set(starts)) == 3
        feed.batch(0)
        for row, length in zip(feed.rows, feed.lengths, strict=True):
            assert str(row.prompts) in [str(rows[feed.rows.index(row)].prompts) for rows, _ in feed.wordings]
            assert length == one.entries("mood", [row], task.splits["train"].targets[feed.rows.index(row) :][:1])[0]
    assert len({tuple(lengths) for _, lengths in feed.wordings}) > 1
