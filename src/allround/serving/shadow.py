"""A shadow: a new version that answers what the old one is asked, and is never heard. What differs is recorded."""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from allround.core.errors import AllroundError
from allround.models.prediction.answers import Answered
from allround.models.system import System
from allround.serving.engine import Busy, Engine, Limits, Stopped
from allround.serving.metrics import Metrics
from allround.serving.questions import Question
from allround.tasks.kind import kind

#: Most bytes of the file of flips; further ones are counted alone.
MOST = 100 * 2**20
#: Requests that wait for the shadow; further ones it does not see.
QUEUE = 64

_log = logging.getLogger("allround.serving")


class Shadow:
    """Compares the answers of another system with those that were given.

    It answers on a thread of its own, after the client has its answer. Each answer that is not the same is a line in
    `file`: the task, the input, and both answers. Numbers are not compared.
    """

    def __init__(
        self, system: System, file: Path, metrics: Metrics, *, name: str = "model", limits: Limits | None = None
    ) -> None:
        try:
            self._file = file.open("a", encoding="utf-8")
        except OSError as error:
            raise AllroundError(f"record what the shadow answers in another way in {file}",
                                f"the file cannot be written: {error.strerror}", "choose another --shadow-file",
                                ) from error  # fmt: skip
        limits = Limits() if limits is None else limits
        self.name, self._metrics = name, metrics
        self._engine = Engine(
            system, Limits(limits.rows, limits.tokens, limits.together, QUEUE), name=f"{name}, shadow"
        )

    def see(self, question: Question, answered: Answered) -> None:
        """Take a question and the answers that were given to it."""
        try:
            future = self._engine.submit(question, seconds=60)
        except (Busy, Stopped):
            self._metrics.shadow_dropped.labels(self.name).inc()
            return
        future.add_done_callback(lambda made: self._compare(question, answered, made))

    def stop(self) -> None:
        """Compare what is queued, and close the file."""
        self._engine.stop()
        self._file.close()

    def _compare(self, question: Question, answered: Answered, future: Future[Any]) -> None:
        if (error := future.exception()) is not None:
            self._metrics.shadow_dropped.labels(self.name).inc()
            _log.warning("the shadow of %s did not answer: %s", self.name, error)
            return
        other: Answered = future.result()
        for task, before in answered.tasks.items():
            now = other.tasks.get(task)
            if now is None or kind(before.definition.kind).numeric:
                continue
            pairs = list(zip(before.predictions, now.predictions, strict=True))
            self._metrics.shadow_rows.labels(self.name, task).inc(sum(one is not None for one, _ in pairs))
            flips = [place for place, (one, new) in enumerate(pairs) if one is not None and one != new]
            self._metrics.flips.labels(self.name, task).inc(len(flips))
            for place in flips:
                self._write({
                    "time": round(time.time(), 3), "model": self.name, "task": task, "input": question.inputs[place],
                    "before": before.predictions[place], "now": now.predictions[place],
                    "confidence_before": before.confidence[place], "confidence": now.confidence[place],
                })  # fmt: skip
        self._file.flush()

    def _write(self, flip: dict[str, object]) -> None:
        if self._file.tell() < MOST:
            self._file.write(json.dumps(flip, ensure_ascii=False) + "\n")
