"""Merging networks whose features do not correspond: permutation alignment and ZipIt."""
