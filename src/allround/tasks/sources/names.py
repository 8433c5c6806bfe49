"""How the files and folders of a source name its splits."""

from __future__ import annotations

#: The name of a file or a folder -> the split.
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
