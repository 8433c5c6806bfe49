"""Loops: one file a preset, found by its name."""
