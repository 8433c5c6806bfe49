"""Build merging as a loop: copies are tuned for a while, merged, handed out again, and so on."""

from allround.building.loops.loop import Branch, Loop
from allround.building.loops.run import Looped, plan_loop, run_loop

__all__ = ["Branch", "Loop", "Looped", "plan_loop", "run_loop"]
