"""A suite of pooled searches is built and scored as any other, and re-ranked."""

from __future__ import annotations

from pathlib import Path

from tests.tasks.test_pooling import written

import allround as ar
from allround.models.system import load
from allround.models.systems.reranked import Reranked
from allround.tasks.suite import Suite


def test_pooled_searches_are_built_scored_and_reranked(bert_folder: Path, tmp_path: Path) -> None:
    file = written(tmp_path, "true")
    file.write_text(file.read_text().replace("kind: retrieval", "instruction: find the page, kind: retrieval", 1))
    suite = Suite.load(file)
    settings = ar.Settings(epochs=1)
    options = ar.Options(settings=settings, methods=("average",), trials=1, baselines=False, workers=1)
    made = ar.build(file, base=bert_folder, out=tmp_path / "run", options=options)
    assert {"joint", "average"} <= set(made.scoreboard.to_frame()["system"])
    asked = suite["pages"].splits["test"].inputs
    ids = {"pages/1", "pages/2", "pages/3", "messages/1", "messages/2", "messages/4"}
    assert set(load(made.best).predict("pages", asked)[0]) == ids
    out = tmp_path / "two"
    ar.rerank(suite, retriever=made.best, base=bert_folder, candidates=4, settings=settings, out=out)
    two = load(out)
    assert isinstance(two, Reranked) and two.judge.definition("pages").instruction == "find the page"
    assert set(two.instructed("pages", "find").predict("pages", asked)[0]) == ids
