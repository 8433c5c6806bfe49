"""What models changed of their base, before they are merged: how much, where, and whether the changes agree.

diff("base", ["first", "second"]).print()
"""

from allround.merging.diff.changes import Changes, Mismatch, Part
from allround.merging.diff.compare import LARGEST, diff
from allround.merging.diff.result import FILES, Diff

__all__ = ["FILES", "LARGEST", "Changes", "Diff", "Mismatch", "Part", "diff"]
