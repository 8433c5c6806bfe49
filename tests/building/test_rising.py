"""Specialists that were still getting better when their training ended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from allround.building.rising import rising_specialists
from allround.tasks.suite import Suite


def courses(task: str, scores: list[float]) -> dict[str, list[dict[str, object]]]:
    return {task: [{"step": n, "scores": {task: one}, "losses": {}} for n, one in enumerate(scores)]}


def test_a_gain_above_a_standard_error_at_the_end_is_told(digits_suite: Suite) -> None:
    tasks = {"digit": digits_suite.tasks["digit"]}
    rows = len(tasks["digit"].splits["validation"])
    error = np.sqrt(0.8 * 0.2 / rows)  # of the share halfway between the two scores
    (words,) = rising_specialists(tasks, courses("digit", [0.1, 0.8 - 0.51 * error, 0.8 + 0.51 * error]))
    before, last = 80 - 51 * error, 80 + 51 * error
    assert words == (
        f"The specialist of digit was still getting better at its last evaluation ({before:.1f}, then {last:.1f} on "
        "validation): train it longer (--epochs), or retention looks too good."
    )
    for quiet in ([0.1, 0.8 - 0.49 * error, 0.8 + 0.49 * error], [0.95, 0.5, 0.9], [0.5], [], [0.5, 1.0]):
        assert rising_specialists(tasks, courses("digit", quiet)) == [], quiet
    assert rising_specialists(tasks, {}) == [], "a given specialist, whose training is not known"


def test_an_error_must_fall_by_more_than_two_percent(digits_suite: Suite) -> None:
    ink = digits_suite.tasks["ink"]
    tasks = {"ink": replace(ink, definition=replace(ink.definition, metric="rmse"))}
    assert "(3, then 2.9 on" in rising_specialists(tasks, courses("ink", [4.0, 3.0, 2.9]))[0]
    assert not rising_specialists(tasks, courses("ink", [4.0, 3.0, 2.95]))
