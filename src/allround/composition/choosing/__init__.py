"""Choosing among the modules of a library: groups of modules that are alike, and modules for a new task."""
