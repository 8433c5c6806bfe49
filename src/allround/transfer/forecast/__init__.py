"""Forecasts of a large model's score from runs of small ones."""
