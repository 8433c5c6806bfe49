"""Affinities: how well each task does in a group, from what smaller groups showed."""
