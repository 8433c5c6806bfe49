"""The scoreboard: systems x tasks, with retention, intervals, costs and comparisons."""

from allround.evaluation.scoreboard.board import FILES, Scoreboard
from allround.evaluation.scoreboard.scores import MARKS, Cell, Comparison, Cost, Notes, Scores, Summary, System

__all__ = [
    "FILES",
    "MARKS",
    "Cell",
    "Comparison",
    "Cost",
    "Notes",
    "Scoreboard",
    "Scores",
    "Summary",
    "System",
]
