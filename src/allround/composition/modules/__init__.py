"""Modules on one base: what each changes of it, and how rows of one batch go through several."""
