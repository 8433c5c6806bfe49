"""allround: many tasks, or many fine-tuned specialists, into one all-round model, with proof per task.

    import allround as ar

    made = ar.build("digits", out="runs/digits")      # specialists, joint model, merges; the best single model
    made.scoreboard.print()
    model = ar.load(made.best)
    model.predict("digit", [image])

    ar.tune("suite.yml", "topic", base="all-MiniLM-L6-v2", out="models/topic")            # one specialist
    ar.train("suite.yml", base="all-MiniLM-L6-v2", out="models/joint")                    # one joint model
    ar.merge(["models/topic", "models/mood"], base="models/base", out="models/both")      # or state dicts in memory
    ar.rerank("search.yml", retriever="models/find", base="all-MiniLM-L6-v2", out="models/two")      # two stages
    ar.queries("search.yml", base="smollm2-135m", out="runs/made")                        # rows for a search
    ar.trans_encoder("pairs.jsonl", base="all-MiniLM-L6-v2", out="models/alike")          # pairs without labels
    ar.evaluate("models/both", "suite.yml").print()
    ar.relate("suite.yml", base="all-MiniLM-L6-v2", out="runs/related").print()           # who helps whom
    ar.stream("suite.yml", base="all-MiniLM-L6-v2", out="runs/stream")                    # one task after another
    ar.add_task("runs/digits/best", "new.yml", out="runs/more")                           # one task more
    ar.shrink("models/both", "suite.yml", out="runs/small")                               # at half the work
    ar.sources(["models/topic", "models/mood"], "new.yml").print()                        # which to tune first

`help(ar.build)` and its like say more; `ar.methods()` lists the methods, and `ar.use_plugin("mine.py")` adds one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allround.core.version import __version__

if TYPE_CHECKING:
    from allround.building import (
        AddOptions,
        Build,
        Constraints,
        MadeQueries,
        Options,
        ShrinkOptions,
        TransEncoded,
        add_task,
        build,
        compare_training,
        evaluate,
        export,
        generative,
        index,
        queries,
        relate,
        rerank,
        shrink,
        stream,
        train,
        trans_encoder,
        tune,
    )
    from allround.composition.library.library import Library
    from allround.core.errors import AllroundError
    from allround.core.plugins import use_plugin
    from allround.core.registry import methods
    from allround.evaluation.scoreboard import Scoreboard
    from allround.merging.call import merge
    from allround.models.system import System, load
    from allround.models.systems.multi_task_model import MultiTaskModel
    from allround.tasks.make import make_task
    from allround.tasks.suite import Suite
    from allround.tasks.task import Task
    from allround.training.settings import Settings
    from allround.transfer.sources import sources

__all__ = [
    "AddOptions",
    "AllroundError",
    "Build",
    "Constraints",
    "Library",
    "MadeQueries",
    "MultiTaskModel",
    "Options",
    "Scoreboard",
    "Settings",
    "ShrinkOptions",
    "Suite",
    "System",
    "Task",
    "TransEncoded",
    "__version__",
    "add_task",
    "build",
    "compare_training",
    "evaluate",
    "export",
    "generative",
    "index",
    "load",
    "make_task",
    "merge",
    "methods",
    "queries",
    "relate",
    "rerank",
    "shrink",
    "sources",
    "stream",
    "train",
    "trans_encoder",
    "tune",
    "use_plugin",
]

#: Where each name lives; it is imported when it is first asked for, so that `import allround` takes no time.
_HOMES = {
    "AddOptions": "allround.building",
    "AllroundError": "allround.core.errors",
    "Build": "allround.building",
    "Constraints": "allround.building",
    "Library": "allround.composition.library.library",
    "MadeQueries": "allround.building",
    "MultiTaskModel": "allround.models.systems.multi_task_model",
    "Options": "allround.building",
    "Scoreboard": "allround.evaluation.scoreboard",
    "Settings": "allround.training.settings",
    "ShrinkOptions": "allround.building",
    "System": "allround.models.system",
    "Suite": "allround.tasks.suite",
    "Task": "allround.tasks.task",
    "TransEncoded": "allround.building",
    "add_task": "allround.building",
    "build": "allround.building",
    "compare_training": "allround.building",
    "evaluate": "allround.building",
    "export": "allround.building",
    "generative": "allround.building",
    "index": "allround.building",
    "queries": "allround.building",
    "relate": "allround.building",
    "rerank": "allround.building",
    "shrink": "allround.building",
    "load": "allround.models.system",
    "make_task": "allround.tasks.make",
    "merge": "allround.merging.call",
    "methods": "allround.core.registry",
    "sources": "allround.transfer.sources",
    "stream": "allround.building",
    "train": "allround.building",
    "trans_encoder": "allround.building",
    "tune": "allround.building",
    "use_plugin": "allround.core.plugins",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'allround' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
