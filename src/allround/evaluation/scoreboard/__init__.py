"""The scoreboard: systems x tasks, with retention, intervals, costs and comparisons."""

from allround.evaluation.scoreboard.board import FILES, Scoreboard
from allround.evaluation.scoreboard.scores import MARKS, Cell, Comparison, Notes, ScoredSystem, Scores, Summary

__all__ = [
    "FILES",
    "MARKS",
    "Cell",
    "Comparison",
    "Notes",
    "Scoreboard",
    "ScoredSystem",
    "Scores",
    "Summary",
]
