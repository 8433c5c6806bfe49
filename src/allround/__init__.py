"""allround: many tasks, or many fine-tuned specialists, into one all-round model, with proof per task."""

__version__ = "0.1.0"
