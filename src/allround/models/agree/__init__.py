"""Losses of pairs of texts that have a score, a file each."""
