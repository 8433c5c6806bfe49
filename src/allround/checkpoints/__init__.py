"""Weights on disk: lazy reading, checking, streaming to files."""
