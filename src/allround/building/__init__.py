"""The main job: from a suite and a base to specialists, candidates, one scoreboard, the best model and a report."""

from allround.building.add_task import add_task
from allround.building.adding import AddOptions
from allround.building.compare import compare_training
from allround.building.export import export
from allround.building.generative import generative
from allround.building.index import index
from allround.building.options import Constraints, Options
from allround.building.queries import MadeQueries, queries
from allround.building.relate import relate
from allround.building.rerank import rerank
from allround.building.result import Build
from allround.building.run import build
from allround.building.shrink import shrink
from allround.building.shrinking import ShrinkOptions
from allround.building.single import evaluate, train, tune
from allround.building.stream import stream
from allround.building.trans_encoder import TransEncoded, trans_encoder

__all__ = [
    "AddOptions",
    "Build",
    "Constraints",
    "MadeQueries",
    "Options",
    "ShrinkOptions",
    "TransEncoded",
    "add_task",
    "build",
    "compare_training",
    "evaluate",
    "export",
    "generative",
    "index",
    "queries",
    "relate",
    "rerank",
    "shrink",
    "stream",
    "train",
    "trans_encoder",
    "tune",
]
