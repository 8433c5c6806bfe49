"""The main job: from a suite and a base to specialists, candidates, one scoreboard, the best model and a report."""

from allround.building.options import Constraints, Options
from allround.building.run import Build, build

__all__ = ["Build", "Constraints", "Options", "build"]
