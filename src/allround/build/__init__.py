"""The main job: from a suite and a base to specialists, candidates, one scoreboard, the best model and a report."""

from allround.build.options import Constraints, Options
from allround.build.run import Build, build

__all__ = ["Build", "Constraints", "Options", "build"]
