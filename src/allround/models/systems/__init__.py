"""Sorts of system, one file each."""
