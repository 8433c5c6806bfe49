"""Strategies: presets of what an arrival may change, what is remembered, and what guards the old."""
