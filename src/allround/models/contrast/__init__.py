"""Losses that bring queries near to what is relevant to them, a file each."""
