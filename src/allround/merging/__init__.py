"""Merging checkpoints that were tuned from one base."""
