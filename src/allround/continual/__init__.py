"""Tasks that come one after another: streams of them, and strategies that learn without losing what they knew."""

from allround.continual.learning import Learner
from allround.continual.rows import Memory
from allround.continual.strategy import Strategy, strategy_of
from allround.continual.stream import Arrival, Stream, of_tasks, permuted, rotated, split_labels

__all__ = ["Arrival", "Learner", "Memory", "Strategy", "Stream", "of_tasks", "permuted", "rotated", "split_labels",
           "strategy_of"]  # fmt: skip
