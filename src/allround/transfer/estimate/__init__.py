"""Estimators: how much a source task is expected to help a target task."""
