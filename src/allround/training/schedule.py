"""When what is trained: the feeds of each step, and the learning rate at it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

from allround.core import registry
from allround.core.errors import AllroundError
from allround.core.seeds import seed_of
from allround.training.feeds import Feed
from allround.training.mix import parse_mix
from allround.training.sampling import Policy, arrange, counts_of, next_stretch
from allround.training.settings import Settings


class ScheduleState(TypedDict):
    """Where a schedule is, enough to go on from there."""

    step: int
    done: int
    queue: list[list[int]]
    drawn: list[int]


class Schedule:
    """The steps of one training, up to the share `stop` of them that the settings give.

    step: the number of the next step. done, batches: batches that were drawn so far, and of the whole training; a step
    holds one or more. drawn: batches of each feed that were drawn so far.
    """

    def __init__(
        self, feeds: Sequence[Feed], kinds: Sequence[str], policy: Policy, settings: Settings, epochs: int, seed: int
    ) -> None:
        self.feeds, self.policy, self.seed, self.warmup = list(feeds), policy, seed, settings.warmup
        self.facts = registry.find("sample", settings.sample).facts
        self.groups, self.most = parse_mix(settings.mix, kinds)
        self.batches_per_epoch = sum(feed.batches for feed in self.feeds)
        self.batches = epochs * self.batches_per_epoch
        self.start, self.stop = round(settings.start * self.batches), round(settings.stop * self.batches)
        if self.start == self.stop:
            raise AllroundError(
                f"train from {settings.start:.3g} to {settings.stop:.3g} of {self.batches} steps",
                "there are no steps between the two",
                "train for more epochs, or in fewer parts",
            )
        self.step = self.done = 0
        self.queue: list[list[int]] = []
        self.drawn = [0] * len(self.feeds)

    @property
    def epoch(self) -> int:
        """How many epochs are complete."""
        return self.done // self.batches_per_epoch

    @property
    def progress(self) -> float:
        """The share of the whole training that is done."""
        return self.done / self.batches

    @property
    def finished(self) -> bool:
        """Whether the part of the training that the settings ask for is done."""
        return self.done >= self.stop

    def skip_to_start(self) -> None:
        """Draw what comes before the part of the training that is asked for, without training on it."""
        while self.done < self.start:
            feeds = self.next_feeds()
            for index in feeds:
                self.drawn[index] += 1
            self.advance(len(feeds))

    def next_feeds(self) -> list[int]:
        """The numbers of the feeds of the next step."""
        if not self.queue:
            start = self.done
            end, shares = next_stretch(self.policy, start, self.batches)
            if self.facts["feedback"]:
                evaluation = (start // self.batches_per_epoch + 1) * self.batches_per_epoch
                end = min(end, evaluation)
            if len({f.batch_size for f in self.feeds}) > 1:  # shares are of rows
                shares = [share / feed.batch_size for share, feed in zip(shares, self.feeds, strict=True)]
                shares = [share / sum(shares) for share in shares]
            counts = counts_of(shares, end - start)
            seed = seed_of(self.seed, "tasks", *([start] if start else []))
            self.queue = arrange(counts, self.groups, self.most, seed)
        return self.queue.pop(0)

    def next_rows(self, index: int) -> list[int]:
        """The rows of the next batch of a feed."""
        rows = self.feeds[index].batch(self.drawn[index])
        self.drawn[index] += 1
        return rows

    def advance(self, batches: int) -> None:
        """Count a step that held so many batches."""
        self.done += batches
        self.step += 1

    def rate(self, batches: int) -> float:
        """The rate at a step that holds so many batches, as a share of the full one.

        It rises linearly over the warm-up, then falls linearly to zero; with a policy that restarts, anew in each
        stretch between its changes.
        """
        after = self.done + batches
        first, last = 0, self.batches
        if self.facts["restarts"]:
            marks = [0, *(round(c * self.batches) for c in self.policy.changes), self.batches]
            first, last = next(((a, b) for a, b in pairwise(marks) if a < after <= b), (0, self.batches))
        length, after = last - first, after - first
        before = self.done - first
        warm = max(1, round(self.warmup * length))
        return min(1.0, after / warm) if before < warm else max(0.0, (length - before) / max(1, length - warm))

    def state(self) -> ScheduleState:
        """Where the schedule is now."""
        return {"step": self.step, "done": self.done, "queue": self.queue, "drawn": self.drawn}

    def resume(self, state: ScheduleState) -> None:
        """Go on from where another object of the same training was."""
        self.step, self.done = state["step"], state["done"]
        self.queue, self.drawn = state["queue"], state["drawn"]
