"""allround: many tasks, or many fine-tuned specialists, into one all-round model, with proof per task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allround.core.version import __version__

if TYPE_CHECKING:
    from allround.composition.residuals.store import load
    from allround.core.errors import AllroundError
    from allround.evaluation.scoreboard import Scoreboard
    from allround.models.model import MultiTaskModel
    from allround.tasks.make import make_task
    from allround.tasks.suite import Suite


__all__ = ["AllroundError", "MultiTaskModel", "Scoreboard", "Suite", "__version__", "load", "make_task"]

_HOMES = {
    "AllroundError": "allround.core.errors",
    "MultiTaskModel": "allround.models.model",
    "Scoreboard": "allround.evaluation.scoreboard",
    "Suite": "allround.tasks.suite",
    "load": "allround.composition.residuals.store",
    "make_task": "allround.tasks.make",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'allround' has no attribute '{name}'")
