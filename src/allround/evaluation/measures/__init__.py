"""Measures of a system's answers beside the scores of its tasks."""
