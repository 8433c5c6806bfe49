"""Completions: the scores of a model on all tasks, from some of them and from other models."""
