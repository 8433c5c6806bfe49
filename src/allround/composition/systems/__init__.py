"""Sorts of system that are composed of parts, one file each."""
