"""Pages as a browser lays them out: nothing lies outside the window, on a screen and on a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
from comparisons import comparison

from allround.evaluation.predictions import Predictions
from allround.evaluation.report import html
from allround.evaluation.scoreboard import Scoreboard, ScoredSystem
from allround.evaluation.scoreboard.scores import AdaptedScore, Summary
from allround.evaluation.training.page import html as training_page
from allround.models.cost import Cost
from allround.tasks.definition import Definition

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Finds visible elements that reach out of the window. Code may scroll; the heads of stacked tables are hidden.
SCRIPT = """
<script>
window.addEventListener("load", () => {
  const found = [], width = document.documentElement.clientWidth;
  for (const element of document.body.querySelectorAll("*")) {
    const head = element.closest("thead");
    if (element.closest("pre code") || (head && getComputedStyle(head).position === "absolute")) continue;
    const box = element.getBoundingClientRect();
    if (box.width >= 2 && box.height >= 2 && (box.right > width + 1 || box.left < -1))
      found.push([element.tagName, (element.textContent || "").trim().slice(0, 40), box.left, box.right]);
  }
  parent.document.body.setAttribute("data-found-" + width, JSON.stringify(found));
});
</script>
"""
#: A window of any width; those of a browser have a least one.
FRAME = '<iframe style="border: 0" width="{width}" height="2000" srcdoc="{page}"></iframe>'


def large() -> Scoreboard:
    """Twelve tasks and fourteen systems with long names."""
    rng = np.random.default_rng(0)
    definitions, predictions, systems = {}, {}, []
    for number in range(14):
        role = {0: "floor", 1: "specialists", 2: "joint", 3: "trees"}.get(number, "merge")
        name = "specialists" if number == 1 else f"a_method_with_a_long_name_{number}+heads"
        cost = Cost(100.0 + number, 900, 22_700_000 + number, 22_700_000, 50.0)
        systems.append(ScoredSystem(name, role, "what it is, in words", {"scale": 0.3, "keep": 0.2}, cost=cost))
    for number in range(12):
        task = f"sick_relatedness_of_sentences_{number}"
        definitions[task] = Definition(task, "classification", ("x",), "text", "macro_f1", ("no", "yes"))
        targets = rng.integers(0, 2, 200)
        for system in systems:
            right = rng.random(200) < 0.9
            predictions[system.name, task] = Predictions(
                definitions[task], "test", targets, np.where(right, targets, 1 - targets)
            )
    made = Scoreboard.make(definitions, systems, predictions, best=systems[-1].name, resamples=50)
    score, words = Summary(0.812, 0.701, 0.903), "no difference found"
    adapted = [
        AdaptedScore(system.name, task, "macro_f1", 32 + place, 32, 200, score, score, score, words, score, words)
        for place, task in enumerate(list(definitions)[:2])
        for system in systems[:3]
    ]
    return replace(made, adapted=adapted)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_nothing_lies_outside_the_window(tmp_path: Path) -> None:
    made = large()
    notes = [{"name": task, "notes": ["a note that is long enough to be broken " * 4]} for task in made.definitions]
    tried = [
        {"method": system.name, "settings": {"keep": 0.1, "scale": 1.0}, "validation": 0.9, "chosen": True}
        for system in made.systems
    ]
    commands = "allround predict " + "--option value " * 20
    text = html(made, extra={"tasks": notes, "choices": tried, "commands": commands})
    inside = escape(text.replace("</body>", SCRIPT + "</body>"))
    wide = escape('<p style="width: 2000px">wider than any window</p>' + SCRIPT)
    trainings = escape(training_page(comparison()).replace("</body>", SCRIPT + "</body>"))
    page = tmp_path / "page.html"
    shown = ((1300, inside), (390, inside), (391, wide), (1301, trainings), (392, trainings))
    frames = [FRAME.format(width=width, page=one) for width, one in shown]
    page.write_text(f"<!doctype html><body>{''.join(frames)}</body>", encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    found = {width: json.loads(unescape(value)) for width, value in re.findall(r'data-found-(\d+)="([^"]*)"', said)}
    assert found["391"][0][0] == "P", "the script finds what is too wide"
    assert found["1300"] == [] and found["390"] == []
    assert found["1301"] == [] and found["392"] == [], "pictures of trainings do not scroll on a phone"
