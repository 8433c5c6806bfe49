"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from allround.serving.engine import Batch

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        task, model = ("model", "task"), ("model",)
        self.requests = Counter("allround_requests", "Requests.", ("path", "status"), registry=own)
        self.seconds = Histogram("allround_request_seconds", "Seconds from a request to its response.", ("path",),
                                 registry=own, buckets=_SECONDS)  # fmt: skip
        self.answers = Counter("allround_answers", "Answers by task.", task, registry=own)
        self.abstained = Counter("allround_abstained", "Answers that were held back as too unsure.", task, registry=own)
        self.unanswered = Counter("allround_unanswered", "Rows that a task could not read.", task, registry=own)
        self.batch_rows = Histogram("allround_batch_rows", "Rows that were answered together.", model, registry=own,
                                    buckets=_ROWS)  # fmt: skip
        self.batch_seconds = Histogram("allround_batch_seconds", "Seconds of a batch.", model, registry=own,
                                       buckets=_SECONDS)  # fmt: skip
        self.reloads = Counter("allround_reloads", "New versions by what became of them.", ("model", "outcome"),
                               registry=own)  # fmt: skip
        self.shadow_rows = Counter("allround_shadow_rows", "Answers that were compared with the shadow's.", task,
                                   registry=own)  # fmt: skip
        self.flips = Counter("allround_shadow_flips", "Answers that are other than the shadow's.", task, registry=own)
        self.shadow_dropped = Counter("allround_shadow_dropped", "Requests that the shadow did not answer.", model,
                                      registry=own)  # fmt: skip
        self.waiting = Gauge("allround_waiting", "Requests in the queue.", model, registry=own)

    def watch(self, model: str) -> Callable[[Batch], None]:
        """What an engine shows its batches to."""
        rows, seconds = self.batch_rows.labels(model), self.batch_seconds.labels(model)

        def see(batch: Batch) -> None:
            rows.observe(batch.rows)
            seconds.observe(batch.seconds)

        return see

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
