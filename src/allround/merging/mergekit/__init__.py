"""Recipes of mergekit's: their YAML read, and the merges that they mean."""
