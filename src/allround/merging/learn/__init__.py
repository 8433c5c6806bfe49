"""Learned merges: what is learned, by which objective, on which rows."""
