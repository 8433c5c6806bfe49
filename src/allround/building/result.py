"""What a build leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allround.evaluation.scoreboard import Scoreboard


@dataclass(frozen=True)
class Build:
    """What a build leaves: where the best model and the report are, and the scoreboard."""

    folder: Path
    best: Path
    report: Path
    scoreboard: Scoreboard
