"""Checks of answers that are texts."""

from __future__ import annotations

from allround.core.words import listed as and_listed
from allround.tasks.checks.finding import Finding, Targets, listed
from allround.tasks.kind import kind
from allround.tasks.task import SPLITS, Task


def check_answers(task: Task, targets: Targets) -> list[Finding]:
    """Rows all of whose accepted answers hold a text that ends an answer: no answer that is written can be one."""
    prompt = task.definition.prompt
    if prompt is None or not prompt.stop or not kind(task.definition.kind).written:
        return []
    parts, cut = [], []
    for split in SPLITS:
        answers = [one if isinstance(one, list) else [str(one)] for one in targets[split]]
        ended = [one[0] for one in answers if all(any(stop in text for stop in prompt.stop) for text in one)]
        if ended:
            parts.append(f"{len(ended)} of {len(answers)} {split} rows")
            cut += ended
    if not parts:
        return []
    words = (
        f"the answers of {and_listed(parts)} hold a text of `stop`, which ends what a model writes: {listed(cut, 2)}"
    )
    return [Finding("answers_end_early", words, "choose another `stop`, or `extract` what is asked for")]
