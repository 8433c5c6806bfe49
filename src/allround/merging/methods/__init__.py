"""Merge methods, one file each: tensors in, a tensor out."""
