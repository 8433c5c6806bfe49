"""Modalities of inputs, one file each."""
