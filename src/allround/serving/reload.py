"""Reloading: a new version takes the place of the old one between two batches, if it passes the gates."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allround.building.compare_versions import answers_of_system
from allround.core.errors import AllroundError
from allround.core.words import listed
from allround.evaluation.predictions import Predictions
from allround.evaluation.versions import Gates, TaskVersions, compare
from allround.models.system import System
from allround.serving.metrics import Metrics
from allround.serving.refused import Refused
from allround.serving.served import Models, Served, open_served
from allround.tasks.suite import Suite


@dataclass(frozen=True)
class Gatekeeper:
    """The rows that versions are compared on, and what a new one must keep to."""

    suite: Suite
    gates: Gates
    split: str = "test"

    def answers(self, system: System, folder: Path) -> dict[str, Predictions]:
        return answers_of_system(system, self.suite, self.split, str(folder))


class Reloader:
    """Puts new versions in the place of old ones. gate: None where every version that can be loaded may answer."""

    def __init__(self, models: Models, metrics: Metrics, gate: Gatekeeper | None = None, device: str = "cpu") -> None:
        """The answers of the present versions to the gate's rows are computed here."""
        self._metrics, self._gate, self._device = metrics, gate, device
        self._lock = threading.Lock()
        self._answers: dict[str, Mapping[str, Predictions]] = {}
        for one in models if gate is not None else ():
            if gate is not None and one.folder is not None:
                self._answers[one.name] = gate.answers(one.system, one.folder)

    def reload(self, served: Served, folder: Path | None = None) -> dict[str, Any]:
        """Load a folder, by default the one that is served, and let it answer from now on; what was compared.

        Errors: a folder that cannot be loaded; a version that does not pass; another reload that is under way. The old
        version then goes on.
        """
        folder = served.folder if folder is None else folder
        if folder is None:
            raise AllroundError(f"reload the model '{served.name}'", "it came from no folder", "name a folder")
        if not self._lock.acquire(blocking=False):
            raise Refused(409, f"reload the model '{served.name}'", "another reload is under way", "wait for it")
        try:
            return self._reload(served, folder)
        except AllroundError:
            self._metrics.reloads.labels(served.name, "refused").inc()
            raise
        finally:
            self._lock.release()

    def _reload(self, served: Served, folder: Path) -> dict[str, Any]:
        system = open_served(folder, served.indexes, self._device)
        tasks: list[TaskVersions] = []
        if self._gate is not None and served.name in self._answers:
            old, new = self._answers[served.name], self._gate.answers(system, folder)
            tasks = compare(old, new)
            self._check(served, system, folder, tasks)
            self._answers[served.name] = new
        served.engine.system, served.folder = system, folder
        self._metrics.reloads.labels(served.name, "done").inc()
        compared = [{"task": one.task, "old": one.old.value, "new": one.new.value, "verdict": one.verdict,
                     "lost": None if one.flips is None else one.flips.lost} for one in tasks]  # fmt: skip
        return {"model": served.name, "folder": str(folder), "tasks": list(system.definitions), "compared": compared}

    def _check(self, served: Served, system: System, folder: Path, tasks: list[TaskVersions]) -> None:
        assert self._gate is not None
        gone = [name for name in served.system.definitions if name not in system.definitions]
        found = [f"it lacks {listed(gone)}"] if gone else []
        for one in tasks:
            found += [f"{one.task}: {reason}" for reason in self._gate.gates.broken(one)]
        if found:
            raise Refused(409, f"put {folder} in the place of the model '{served.name}'", "; ".join(found),
                          "train it again, or look at it with `allround compare`; the old version still answers",
                          )  # fmt: skip
