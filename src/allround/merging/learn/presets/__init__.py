"""Learned merges of papers, each a choice of parts: one file each."""
