"""Codecs: ways to write down a residual in few bytes; one file each."""
