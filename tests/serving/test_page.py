"""The page in a browser: write an input, choose tasks, read answers and scores; on a screen and on a phone."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.serving.tiny import OF_TEXT, make_model

from allround.models.systems.multi_task_model import MultiTaskModel
from allround.serving.app import make_app
from allround.serving.engine import Engine
from allround.serving.keys import Keys
from allround.serving.page import page
from allround.serving.served import Models, Served
from allround.serving.service import Service
from allround.tasks.suite import Suite

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEY = "the-key-of-the-tests-of-pages"


@pytest.fixture(scope="module")
def model(bert_folder: Path, text_suite: Suite) -> MultiTaskModel:
    return make_model(bert_folder, text_suite)


@pytest.fixture(scope="module")
def address(model: MultiTaskModel) -> Iterator[str]:
    """A server that asks for a key, in a thread."""
    service = Service(Models([Served("tiny", Engine(model))]), Keys([KEY]))
    server = uvicorn.Server(uvicorn.Config(make_app(service), port=0, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    service.models.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as made:
        yield made.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_a_colleague_can_try_the_tasks(browser: Any, address: str, model: MultiTaskModel, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844})
    shown = context.new_page()
    problems: list[str] = []
    shown.on("pageerror", lambda error: problems.append(str(error)))
    shown.on("request", lambda request: request.url.startswith((address, "data:")) or problems.append(request.url))
    shown.goto(address)
    shown.fill("#key", KEY)
    shown.press("#key", "Enter")
    shown.wait_for_selector("main form")
    assert shown.inner_text("#state").startswith("5 tasks"), "it asked for a key, and then had the tasks"

    text = "<b>a fine dog</b> & a grim cat"
    first = shown.locator("main form").nth(0)
    first.locator("textarea").fill(text)
    first.locator("label.chip", has_text="topics").click()
    first.locator("textarea").press("Control+Enter")
    first.locator(".answer").nth(1).wait_for()
    answered = {one.get_attribute("data-task"): one for one in first.locator(".answer").all()}
    assert list(answered) == [name for name in OF_TEXT if name != "topics"], "only the tasks that were chosen"
    (scores,) = model.predict("mood", [text], scores=True)
    lines = answered["mood"].inner_text().split()
    assert lines[:2] == ["mood", max(scores, key=scores.__getitem__)]
    for label, value in scores.items():
        assert abs(float(lines[lines.index(label, 2) + 1].rstrip("%")) - 100 * value) < 0.06
    (warmth,) = model.predict("warmth", [text])
    assert float(answered["warmth"].locator(".said").inner_text()) == pytest.approx(warmth, abs=1e-3)

    alike = shown.locator("section.one", has_text="alike").first
    alike.locator("textarea").nth(0).fill("a fine dog")
    alike.locator("button").click()
    alike.locator(".answer").wait_for()
    assert "no answer" in alike.inner_text() and "'two' is empty" in alike.inner_text()
    words = shown.locator("section.one", has_text="token classification").first
    words.locator("textarea").fill("ann met bob")
    words.locator("button").click()
    words.locator(".tag").nth(2).wait_for()
    assert words.locator(".tag").count() == 3
    shown.locator("summary", has_text="A form for each").click()
    assert shown.locator("section.one").count() == 5, "and each task has its own"
    assert shown.evaluate("document.documentElement.scrollWidth") <= width, "nothing lies outside the window"
    assert not problems
    context.close()


def test_the_page_runs_only_its_own_script() -> None:
    text, policy = page('<img src="x">')
    assert "&lt;img src=" in text and text.count("<script>") == 1
    assert "innerHTML" not in text and "default-src 'none'" in policy
    assert not [part for part in ("http://", "https://", "//cdn", "@import", "url(") if part in text]
