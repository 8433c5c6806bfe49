"""Blends of estimates: one expectation for each pair of tasks, from several estimates and measured transfer."""
